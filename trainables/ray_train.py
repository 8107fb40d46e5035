"""The worker's side of a slot: trial after trial on one warm Ray Train worker group. No other file here imports Ray.

Ray Train provides worker groups that come back after a fault. It carries neither checkpoints nor metrics: `fit` writes
checkpoints to the trial's folder, and metrics go to the driver through the switchboard, an actor whose methods are
those of `Board`.
"""

import contextlib
import datetime
import gc
import logging
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray import ObjectRef
from ray.util.placement_group import get_current_placement_group

from trainables.config import trial as c
from trainables.data import progress, pulse
from trainables.networks.group import Group, backend_for
from trainables.running import fit as running
from trainables.running import scoring
from trainables.running.blame import blame_of
from trainables.running.messages import (
    Assignment,
    EpochReport,
    Going,
    Metrics,
    NoWork,
    Outcome,
    Position,
    Wanted,
)
from trainables.running.segment import Segment
from trainables.running.surroundings import fault, require_room
from trainables.running.trial_log import dump_stacks, logged

POLL = 0.01  # seconds between two looks of a waiting rank at the store
STORE_TIMEOUT = datetime.timedelta(minutes=30)  # for all workers of a slot to come, and for an answer of rank 0
MEET_WAIT = datetime.timedelta(seconds=20)  # for all workers of a generation to come
LEAST_SUM_WAIT = datetime.timedelta(minutes=10)  # for all workers to join a sum
SUM_MARGIN = datetime.timedelta(minutes=1)  # of a sum over `patience`: the switchboard, which says more, speaks first
ASK_AGAIN = 1.0  # seconds until a worker that was asked to leave looks whether it was asked for more
GONE_WAIT = 6.0  # seconds for a worker to notice that its generation has ended
LEAVE = "leave"  # what the ranks read from the store when the slots close
LEAVE_WAIT = datetime.timedelta(seconds=5)  # for the other ranks to have read it
BEAT = 2.0  # seconds between two looks at whether this worker gets on

Fit = Callable[..., object]


Answer = TypeVar("Answer")


class Method(Protocol[Answer]):
    """A method of an actor."""

    def remote(self, *arguments: object) -> "ObjectRef[Answer]":
        """Sends a call, and returns a reference to its answer."""


class Board(Protocol):
    """Handle of the switchboard, as far as workers call it."""

    @property
    def attach(self) -> Method[int]: ...
    @property
    def next(self) -> Method[Assignment | NoWork]: ...
    @property
    def wanted(self) -> Method[Wanted]: ...
    @property
    def beat(self) -> Method[None]: ...
    @property
    def post(self) -> Method[Going]: ...
    @property
    def acknowledge(self) -> Method[None]: ...
    @property
    def fault(self) -> Method[Outcome | None]: ...


class GroupBroken(RuntimeError):
    """A rank is gone, or the device is in doubt: Ray Train has to restart the group."""


def sum_wait(patience: float) -> datetime.timedelta:
    """How long a worker waits for all others to join a sum.

    Args:
        patience: seconds without progress after which workers count as stuck.
    """
    return max(LEAST_SUM_WAIT, datetime.timedelta(seconds=patience) + SUM_MARGIN)


def slot_loop(board: Board, slot: int, threads: int, patience: float, fit: Fit | None) -> None:
    """The train function of a worker group: takes work from the switchboard until it closes.

    Each generation of a trial gets a process group of its own, over the workers of one slot or of several.

    Args:
        board: handle of the switchboard.
        slot: index of the slot.
        threads: CPU threads of a worker.
        patience: seconds without progress after which workers count as stuck.
        fit: runs a trial in place of `trainables.running.fit.fit`.
    """
    context, run_trial = ray.train.get_context(), fit or running.fit
    rank, workers, device = context.get_world_rank(), context.get_world_size(), ray.train.torch.get_device()
    torch.set_num_threads(threads)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(*address, workers, is_master=rank == 0, timeout=STORE_TIMEOUT)
    store.set(f"node{rank}", ray.get_runtime_context().get_node_id())
    incarnation = _attach(board, slot, store, workers, address) if rank == 0 else 0
    turn = 0
    while True:
        turn += 1
        if rank == 0:
            store.set(f"work{turn}", _next(board, slot, incarnation))
        while not store.check([f"work{turn}"]):
            time.sleep(POLL)
        told = store.get(f"work{turn}").decode()
        if told == LEAVE:
            _leave(store, rank, workers)
            return
        assignment = Assignment.from_json(told)
        group = Group(assignment.place * workers + rank, assignment.members * workers, device)
        outcome = _run(board, assignment, run_trial, group, store if assignment.place == 0 else None, patience)
        if rank == 0:
            ray.get(board.acknowledge.remote(slot, assignment.incarnation, assignment.generation, outcome))


def _next(board: Board, slot: int, incarnation: int) -> str:
    """The next assignment of a slot, as JSON, or LEAVE."""
    while True:
        answer: Assignment | NoWork = ray.get(board.next.remote(slot, incarnation))
        if isinstance(answer, Assignment):
            return answer.to_json()
        if answer == "leave":
            return LEAVE


def _leave(store: dist.Store, rank: int, workers: int) -> None:
    """Has rank 0 return last, because its store ends with it."""
    if rank > 0:
        store.set(f"left{rank}", "")
        return
    with contextlib.suppress(dist.DistError):  # a rank that is dead does not leave
        store.wait([f"left{other}" for other in range(1, workers)], LEAVE_WAIT)


def _attach(board: Board, slot: int, store: dist.Store, workers: int, address: tuple[str, int]) -> int:
    """Tells the switchboard that the workers are up, and on which nodes; returns their incarnation."""
    placement = get_current_placement_group()
    nodes = [store.get(f"node{rank}").decode() for rank in range(workers)]
    return ray.get(board.attach.remote(slot, placement and placement.id.hex(), nodes, address))


def _meet(assignment: Assignment, group: Group, store: dist.Store | None, patience: float) -> None:
    """Forms the process group of a generation, under the store of its first slot.

    Args:
        assignment: of this slot.
        group: this worker's place in the generation.
        store: of this slot, where it leads.
        patience: seconds without progress after which workers count as stuck.

    Raises:
        DistError: a worker does not come.
    """
    if store is None:
        store = dist.TCPStore(*assignment.store, is_master=False, timeout=MEET_WAIT)
    meeting = dist.PrefixStore(f"generation{assignment.generation}", store)
    meeting.set(f"here{group.rank}", "")
    meeting.wait([f"here{rank}" for rank in range(group.size)], MEET_WAIT)
    dist.init_process_group(
        backend_for(group.device), store=meeting, rank=group.rank, world_size=group.size, timeout=sum_wait(patience)
    )


def _run(
    board: Board, assignment: Assignment, run_trial: Fit, group: Group, store: dist.Store | None, patience: float
) -> Outcome:
    """A trial, to its end, its fault, or to the step at which it is left. Every rank of a slot returns the same
    outcome, or none does.

    Raises:
        GroupBroken: the ranks of the slot cannot agree, for some are gone.
    """
    work, slot, incarnation, generation = (
        assignment.work,
        assignment.slot,
        assignment.incarnation,
        assignment.generation,
    )
    verdict: ObjectRef[Outcome | None] | None = None
    segment = Segment(assignment.owner)

    def report(metrics: Metrics) -> Going:
        told = EpochReport(work.key, slot, metrics)
        return ray.get(board.post.remote(slot, incarnation, generation, told))

    folder = Path(work.folder)
    path = folder / f"rank-{group.rank}.log"
    with contextlib.ExitStack() as context:
        context.enter_context(_asked(board, assignment, segment, path))
        context.enter_context(_pulse_told(board, slot, incarnation))
        try:
            _meet(assignment, group, store, patience)
            _require_room(folder, group)
            context.enter_context(logged(path))
            place = f"slot {slot}, worker {group.rank} of {group.size}, process {os.getpid()}"
            logging.info("attempt %d, generation %d on %s", assignment.attempt, generation, place)
            if work.task == "train":
                run_trial(c.parse(work.config), folder, report, group, segment)
            else:
                scoring.perform(work.config, folder, report, group, segment)
            if group.size > 1:
                dist.barrier()
        except Exception as error:
            logging.error("%s", traceback.format_exc())
            surroundings = fault(error, folder)
            text = f"{surroundings or f'{type(error).__name__}: {error}'} (worker {group.rank})"
            blame = "surroundings" if surroundings else blame_of(error)
            verdict = board.fault.remote(slot, incarnation, generation, group.rank, group.size, blame, text)
            error.__traceback__ = None
    gc.collect()  # a process group closes its sockets, by which the others notice, only when nothing refers to it
    if dist.is_initialized():
        dist.destroy_process_group()
    if group.device.type == "cuda":
        torch.cuda.empty_cache()
    if verdict is None:
        return ("left", None) if segment.left else ("end", None)
    outcome = ray.get(verdict)
    if outcome is None:
        raise GroupBroken("not all workers are there to agree on what happened; the group is restarted")
    return outcome


def _require_room(folder: Path, group: Group) -> None:
    """Raises an error on every rank where the trial's folder has no room for a checkpoint. Collective."""
    error = None
    if group.rank == 0:
        try:
            require_room(folder)
        except OSError as reason:
            error = reason
    if not group.decide(error is None):
        raise error or dist.DistError("the first worker cannot write the trial's folder")


@contextlib.contextmanager
def _asked(board: Board, assignment: Assignment, segment: Segment, log: Path) -> Iterator[None]:
    """Does what the switchboard asks of this worker while it trains.

    If its generation has ended and the worker does not notice, such as in a sum that never comes, its process ends, and
    Ray Train restarts it.
    """
    over, slot = threading.Event(), assignment.slot

    def listen() -> None:
        dumped = False
        while not over.is_set():
            try:
                asked: Wanted = ray.get(
                    board.wanted.remote(slot, assignment.incarnation, assignment.generation, dumped)
                )
            except ray.exceptions.RayError:  # the switchboard is gone, and the driver with it
                return
            if over.is_set():
                return
            if asked == "stacks":
                dumped = True
                dump_stacks(log)
            elif asked == "leave":
                segment.leave()
                over.wait(ASK_AGAIN)
            elif asked == "gone" and not over.wait(GONE_WAIT):
                dump_stacks(log)
                os._exit(1)

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()  # the thread ends with the answer to its last call, which nobody waits for


@contextlib.contextmanager
def _pulse_told(board: Board, slot: int, incarnation: int) -> Iterator[None]:
    """Tells the switchboard from time to time that this worker makes progress, and where it is.

    Only signs of the training itself are told, because this thread would go on beside a training that hangs.
    """
    over, position = threading.Event(), list[Position]()

    def note(what: str, done: int, total: int | None) -> None:
        position[:] = [(what, done, total)]

    def tell() -> None:
        told = pulse.signs()
        while not over.wait(BEAT):
            if (signs := pulse.signs()) != told:
                told = signs
                board.beat.remote(slot, incarnation, position[0] if position else None)

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        with progress.told_to(note):
            yield
    finally:
        over.set()
        thread.join()
