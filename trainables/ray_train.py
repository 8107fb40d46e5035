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
from trainables.running.messages import Assignment, Blame, EpochReport, Going, Metrics, NoWork, Outcome, Position
from trainables.running.surroundings import fault, require_room

POLL = 0.01  # seconds between two looks of a waiting rank at the store
STORE_TIMEOUT = datetime.timedelta(minutes=30)  # for all workers to come, and for an answer of rank 0
LEAVE = "leave"  # what the ranks read from the store when the slots close
LEAVE_WAIT = datetime.timedelta(seconds=5)  # for the other ranks to have read it
BEAT = 2.0  # seconds between two looks at whether this worker gets on
BROKEN_LINK = (ConnectionError, dist.DistError)  # what the system and PyTorch raise if a peer is gone
UNTYPED = (RuntimeError, torch.AcceleratorError)  # errors whose type does not tell
BROKEN_MARKS = ("gloo/", "connection closed by peer", "connection reset by peer", "nccl error", "cuda error")
"""Marks, in lower case, of a broken link in a RuntimeError of gloo (which names its source file), NCCL or CUDA."""

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
    def beat(self) -> Method[None]: ...
    @property
    def post(self) -> Method[bool]: ...
    @property
    def acknowledge(self) -> Method[None]: ...
    @property
    def fault(self) -> Method[Outcome | None]: ...


class GroupBroken(RuntimeError):
    """A rank is gone, or the device is in doubt: Ray Train has to restart the group."""


def slot_loop(board: Board, slot: int, threads: int, fit: Fit | None) -> None:
    """The train function of a worker group: takes work from the switchboard until it closes.

    Each trial gets a process group of its own.

    Args:
        board: handle of the switchboard.
        slot: index of the slot.
        threads: CPU threads of a worker.
        fit: runs a trial in place of `trainables.running.fit.fit`.
    """
    context, run_trial = ray.train.get_context(), fit or running.fit
    rank, workers, device = context.get_world_rank(), context.get_world_size(), ray.train.torch.get_device()
    torch.set_num_threads(threads)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store = _store(rank, workers)
    store.set(f"node{rank}", ray.get_runtime_context().get_node_id())
    incarnation = _attach(board, slot, store, workers) if rank == 0 else 0
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
        if dist.is_initialized():
            dist.destroy_process_group()
        dist.init_process_group(
            backend_for(device),
            store=dist.PrefixStore(f"trial{turn}", store),
            rank=rank,
            world_size=workers,
            timeout=datetime.timedelta(minutes=10),
        )
        outcome = _run(board, assignment, run_trial, Group(rank, workers, device))
        if rank == 0:
            ray.get(board.acknowledge.remote(slot, assignment.incarnation, assignment.sequence, outcome))


def _store(rank: int, workers: int) -> dist.Store:
    """Opens the store of rank 0, at the address that all workers were told; returns when all are there."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return dist.TCPStore(address, port, workers, is_master=rank == 0, timeout=STORE_TIMEOUT)


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


def _attach(board: Board, slot: int, store: dist.Store, workers: int) -> int:
    """Tells the switchboard that the workers are up, and on which nodes; returns their incarnation."""
    placement = get_current_placement_group()
    nodes = [store.get(f"node{rank}").decode() for rank in range(workers)]
    return ray.get(board.attach.remote(slot, placement and placement.id.hex(), nodes))


def _run(board: Board, assignment: Assignment, run_trial: Fit, group: Group) -> Outcome:
    """One trial, to its end or its fault. Either every rank returns the same outcome, or none does.

    Raises:
        GroupBroken: some ranks are gone, so that they cannot agree.
    """
    work, slot, incarnation = assignment.work, assignment.slot, assignment.incarnation
    verdict: ObjectRef[Outcome | None] | None = None

    def report(metrics: Metrics) -> Going:
        told = EpochReport(work.key, slot, metrics)
        return "on" if ray.get(board.post.remote(slot, incarnation, assignment.sequence, told)) else "stop"

    folder = Path(work.folder)
    with contextlib.ExitStack() as log, _pulse_told(board, slot, incarnation):
        try:
            _require_room(folder, group)
            log.enter_context(_logged(folder / f"rank-{group.rank}.log"))
            place = f"slot {slot}, worker {group.rank} of {group.size}, process {os.getpid()}"
            logging.info("attempt %d on %s", assignment.attempt, place)
            run_trial(c.parse(work.config), folder, report, group)
            if group.size > 1:
                dist.barrier()
        except Exception as error:
            logging.error("%s", traceback.format_exc())
            surroundings = fault(error, folder)
            text = f"{surroundings or f'{type(error).__name__}: {error}'} (worker {group.rank})"
            blame = "surroundings" if surroundings else blame_of(error)
            verdict = board.fault.remote(slot, incarnation, group.rank, group.size, blame, text)
            error.__traceback__ = None
    gc.collect()  # a process group closes its sockets, by which the others notice, only when nothing refers to it
    dist.destroy_process_group()
    if group.device.type == "cuda":
        torch.cuda.empty_cache()
    if verdict is None:
        return "end", None
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


def blame_of(error: Exception) -> Blame:
    """Whether the link between the ranks or the trial caused an error that the surroundings did not cause.

    After the death of a rank the others see a broken link, which is not the fault of the trial. The type of the error
    decides. gloo, NCCL and CUDA also raise plain RuntimeErrors, which are recognised by their text; an error of any
    other type is the trial's, whatever it says.
    """
    if isinstance(error, BROKEN_LINK):
        return "link"
    text = str(error).lower()
    return "link" if type(error) in UNTYPED and any(mark in text for mark in BROKEN_MARKS) else "trial"


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


@contextlib.contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Log records of a trial go to its own file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler, root = logging.FileHandler(path), logging.getLogger()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        with contextlib.suppress(OSError):  # of lines for which the disc has no room
            handler.close()
