"""The worker's side of a slot: trial after trial on one warm Ray Train worker group. The one file here that imports Ray.

Ray Train provides worker groups that come back after a fault. It carries neither checkpoints nor metrics: those go from `fit` to the
trial's folder, and through the switchboard (an actor with attach, next, beat, post, acknowledge and fault) to whoever runs the trial.
"""

import contextlib
import datetime
import gc
import json
import logging
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray.util.placement_group import get_current_placement_group

from trainables.config import trial as c
from trainables.data import progress, pulse
from trainables.networks.group import Group, backend_for
from trainables.running.fit import fit
from trainables.running.surroundings import fault, require_room

POLL = 0.01  # seconds between two looks of a waiting rank at the store
BEAT = 2.0  # seconds between two looks at whether this worker gets on
BROKEN_LINK = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe", "cuda error", "timed out")


Fit = Callable[..., Any]
Outcome = tuple[
    str, str | None
]  # ("end", None), ("error", text), or ("postponed", text) where it is to be tried again later


class GroupBroken(RuntimeError):
    """A rank is gone, or the device is in doubt: Ray Train has to restart the group."""


def slot_loop(given: dict[str, Any]) -> None:
    """The train function of the group: takes work from the switchboard until it closes; each trial gets a process group of its own.

    Args:
        given: {"board": handle of the switchboard, "slot": index, "threads": CPU threads of a worker, "fit": instead of our own, or None}.
    """
    board, slot, context = given["board"], given["slot"], ray.train.get_context()
    run_trial = given["fit"] or fit
    rank, workers, device = context.get_world_rank(), context.get_world_size(), ray.train.torch.get_device()
    torch.set_num_threads(given["threads"])
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store = dist.distributed_c10d._get_default_store()
    store.set(f"node{rank}", ray.get_runtime_context().get_node_id())
    incarnation = _attach(board, slot, store, workers) if rank == 0 else None
    turn = 0
    while True:
        turn += 1
        if rank == 0:
            work = None
            while work is None:
                work = ray.get(board.next.remote(slot, incarnation))
            store.set(f"work{turn}", json.dumps([incarnation, work]))
        while not store.check([f"work{turn}"]):
            time.sleep(POLL)
        incarnation, work = json.loads(store.get(f"work{turn}"))
        if not work:  # the slots close
            return
        if dist.is_initialized():
            dist.destroy_process_group()
        dist.init_process_group(
            backend_for(device),
            store=dist.PrefixStore(f"trial{turn}", store),
            rank=rank,
            world_size=workers,
            timeout=datetime.timedelta(minutes=10),
        )
        outcome = _run(board, slot, incarnation, work, run_trial, Group(rank, workers, device))
        if rank == 0:
            ray.get(board.acknowledge.remote(slot, incarnation, work["sequence"], outcome))


def _attach(board: Any, slot: int, store: Any, workers: int) -> int:
    """Tells the switchboard that the workers are up, and where they are; returns their incarnation."""
    placement = get_current_placement_group()
    nodes = [store.get(f"node{rank}").decode() for rank in range(workers)]
    return ray.get(board.attach.remote(slot, placement and placement.id.hex(), nodes))


def _run(board: Any, slot: int, incarnation: int, work: dict[str, Any], run_trial: Fit, group: Group) -> Outcome:
    """One trial, to its end or its fault. Every rank comes out with the same outcome, or none does.

    Raises:
        GroupBroken: not every rank is there to agree.
    """
    verdict = None

    def report(metrics: dict[str, float]) -> bool:
        return ray.get(board.post.remote(slot, incarnation, work["sequence"], {**metrics, "trial": work["key"]}))

    folder = Path(work["folder"])
    with contextlib.ExitStack() as log, _pulse_told(board, slot, incarnation):
        try:
            _require_room(folder, group)
            log.enter_context(_logged(folder / f"rank-{group.rank}.log"))
            logging.info(
                "attempt %d on slot %d, worker %d of %d, process %d",
                work["attempt"],
                slot,
                group.rank,
                group.size,
                os.getpid(),
            )
            run_trial(c.parse(work["config"]), folder, report, group)
            if group.size > 1:
                dist.barrier()
        except Exception as error:
            logging.error("%s", traceback.format_exc())
            surroundings = fault(error, folder)
            text = f"{surroundings or f'{type(error).__name__}: {error}'} (worker {group.rank})"
            blame = "surroundings" if surroundings else _blame(error)
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


def _blame(error: Exception) -> Literal["trial", "link"]:
    """Whose fault an error is, in the switchboard's words, that is none of the surroundings."""
    # the ranks that are left see a broken link first: that is no fault of the trial
    link = isinstance(error, dist.DistError) or any(
        mark in f"{type(error).__name__}: {error}".lower() for mark in BROKEN_LINK
    )
    return "link" if link else "trial"


@contextlib.contextmanager
def _pulse_told(board: Any, slot: int, incarnation: int) -> Iterator[None]:
    """Tells the switchboard from time to time that this worker gets on, and where it is.

    What is told are signs of the training itself: this thread would go on beside one that hangs.
    """
    over, position = threading.Event(), list[Any]()

    def note(*now: Any) -> None:
        position[:] = now

    def tell() -> None:
        told = pulse.signs()
        while not over.wait(BEAT):
            if (signs := pulse.signs()) != told:
                told = signs
                board.beat.remote(slot, incarnation, tuple(position) or None)

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
