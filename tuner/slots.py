"""Slots: warm Ray Train worker groups that run one trial after another, and the switchboard through which trials reach them.

The switchboard is one actor with a mailbox for each slot; this module is free of torch, so that the actor stays light. Starting a worker
group takes Ray Train 10 s and more, handing a trial to a warm one a fraction of a second.
"""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray import PlacementGroupID
from ray.util.placement_group import PlacementGroup, remove_placement_group

from trainables.errors import TrialFailure
from tuner.spec import Resources

log = logging.getLogger(__name__)
RELAUNCH_WAIT = 5.0  # seconds before a worker group is launched again, times the failures so far
LAUNCH_FAILURES = 3  # launches of a worker group that fail in a row before its slot is given up
CLOSE_WAIT = 15.0  # seconds for a worker group to end
FAULT_WAIT = 8.0  # seconds for all ranks to report after one of them failed

# Ray Train polls its workers this often; helpers of Ray that a slot has no use for are left out
VARIABLES = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "60",
    "OMP_NUM_THREADS": "1",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # without it cuBLAS may sum in any order
}


class SlotLost(RuntimeError):
    """No worker group is there for a trial, through no fault of its own."""


@dataclass
class Mailbox:
    """Between one trial and one worker group. `incarnation` counts the lives of the group, so that a dead one can take or post nothing.

    `placement` is the id of the placement group that holds the group's resources.
    """

    incarnation: int = 0
    placement: str | None = None
    sequence: int = 0
    trial_id: str | None = None
    work: dict[str, Any] = field(default_factory=dict)
    attempt: int = 0
    posted: list[dict[str, Any]] = field(default_factory=list)
    wanted: int = 0
    outcome: tuple[str, str | None] | None = None
    working: bool = False
    stopping: bool = False
    faults: dict[int, tuple[bool, str]] = field(default_factory=dict)
    last_fault: str = ""
    broken: str | None = None

    @property
    def free(self) -> bool:
        return self.trial_id is None and not self.working and self.broken is None


class Switchboard:
    """An asynchronous actor. Tune's side: acquire, take, release. Train's side: attach, next, post, acknowledge, fault.

    Args:
        slots: how many.
        attempts: how often a trial may be started, after deaths of its worker group.
    """

    def __init__(self, slots: int, attempts: int):
        self.mailboxes = [Mailbox() for _ in range(slots)]
        self.attempts = attempts
        self.over: set[str] = set()
        self.closed = False
        self.changed = asyncio.Condition()

    async def acquire(self, trial_id: str, work: dict[str, Any]) -> tuple[int, int] | None:
        """A slot for a trial, as soon as one is free; asked again, the same. None where all slots are broken, or the trial is over.

        Tune hands a trial to an actor that another one left, and may start the one that it had begun to make for it all the same.
        """
        while trial_id not in self.over:
            for slot, box in enumerate(self.mailboxes):
                if box.trial_id == trial_id:
                    return slot, box.sequence
            # a slot whose workers are up before one that is still being launched
            for slot, box in sorted(enumerate(self.mailboxes), key=lambda item: item[1].incarnation == 0):
                if box.free:
                    box.trial_id, box.work, box.sequence = trial_id, work, box.sequence + 1
                    box.attempt, box.posted, box.wanted, box.outcome, box.last_fault = 0, [], 0, None, ""
                    box.stopping, box.working = False, True
                    await self._announce()
                    return slot, box.sequence
            if all(box.broken is not None for box in self.mailboxes):
                return None
            await self._until(lambda: any(b.free for b in self.mailboxes) or all(b.broken is not None for b in self.mailboxes))
        return None

    async def take(self, ticket: tuple[int, int], position: int) -> tuple[str, Any]:
        """Message `position` of a trial: ("metrics", dict), ("end", None), ("error", text) or, with no workers to be had, ("lost", text).

        Waits for it, and lets the workers go on.
        """
        box = self.mailboxes[ticket[0]]
        if box.sequence != ticket[1]:
            return "lost", "the slot has gone to another trial"
        box.wanted = max(box.wanted, position + 1)
        await self._announce()
        await self._until(lambda: len(box.posted) > position or box.outcome is not None or box.sequence != ticket[1])
        if box.sequence == ticket[1] and len(box.posted) > position:
            return "metrics", box.posted[position]
        return box.outcome or ("lost", "the slot has gone to another trial")

    async def release(self, trial_id: str) -> None:
        """Ends a trial's claim for good; workers that still train it stop at the end of the epoch, where they wait."""
        self.over.add(trial_id)
        for box in self.mailboxes:
            if box.trial_id == trial_id:
                box.trial_id, box.stopping = None, True
                box.working = box.working and box.attempt > 0  # unless no worker has taken it
        await self._announce()

    async def give_up(self, slot: int, why: str) -> None:
        """Marks a slot whose worker group cannot be launched."""
        box = self.mailboxes[slot]
        box.broken, box.outcome, box.working = why, box.outcome or ("lost", why), False
        await self._announce()

    async def close(self) -> None:
        """Sends the worker groups home, each at the end of the epoch that it is in."""
        self.closed = True
        for box in self.mailboxes:
            box.stopping = True
        await self._announce()

    async def lives(self, slot: int) -> int:
        """How often the slot's worker group has come to life."""
        return self.mailboxes[slot].incarnation

    async def placement(self, slot: int) -> str | None:
        """Id of the placement group of the slot's last life."""
        return self.mailboxes[slot].placement

    async def attach(self, slot: int, placement: str | None = None) -> int:
        """A new life of a worker group; returns its incarnation. What the last one worked on is to be done again, unless it was stopped."""
        box = self.mailboxes[slot]
        box.incarnation, box.faults, box.placement = box.incarnation + 1, {}, placement
        box.working = box.working and not box.stopping and box.outcome is None
        await self._announce()
        return box.incarnation

    async def next(self, slot: int, incarnation: int) -> dict[str, Any] | None:
        """Work for rank 0 of a slot, as a dict with its sequence; None after a while without any; {} when there will be none.

        That is when the slots close, and for a life that another one has followed: its workers go home, and give their CPUs back.
        """
        box = self.mailboxes[slot]
        await self._until(lambda: self.closed or incarnation != box.incarnation or (box.working and not box.stopping), 20)
        if self.closed or incarnation != box.incarnation:
            return {}
        if not box.working or box.stopping:
            return None
        box.attempt, box.faults = box.attempt + 1, {}
        if box.attempt > self.attempts:
            last = f"; the last to speak said: {box.last_fault}" if box.last_fault else ""
            box.outcome, box.working = ("error", f"its workers died {self.attempts} times without a new epoch{last}"), False
            await self._announce()
            return None
        return {**box.work, "sequence": box.sequence, "attempt": box.attempt}

    async def post(self, slot: int, incarnation: int, sequence: int, metrics: dict[str, Any]) -> bool:
        """Takes an epoch's metrics and returns when the trial's next epoch is wanted (True) or the trial is over (False).

        So a trial that is stopped wastes no step. Epochs that the trial has heard already, told again after a death, pass at once.
        """
        box = self.mailboxes[slot]
        current = (incarnation, sequence)
        if current != (box.incarnation, box.sequence) or box.stopping:
            return False
        if box.posted and metrics["epoch"] <= box.posted[-1]["epoch"]:
            return True
        box.posted.append(metrics)
        box.attempt = 1  # it gets on: only deaths in the same epoch count against it
        await self._announce()
        await self._until(lambda: box.wanted > len(box.posted) or box.stopping or current != (box.incarnation, box.sequence))
        return current == (box.incarnation, box.sequence) and not box.stopping

    async def acknowledge(self, slot: int, incarnation: int, sequence: int, outcome: tuple[str, str | None]) -> None:
        """The workers are done with a trial: ("end", None), or ("error", text)."""
        box = self.mailboxes[slot]
        if (incarnation, sequence) == (box.incarnation, box.sequence):
            box.outcome, box.working = outcome, False
            await self._announce()

    async def fault(self, slot: int, incarnation: int, rank: int, workers: int, blames_trial: bool, text: str) -> str | None:
        """A rank's error. Its text, if all ranks are alive and one blames the trial: the trial failed. Else None: the group is broken.

        A group may be broken by a trial's own fault, where ranks hang in a sum that one of them never joins: then the trial failed as well.
        """
        box = self.mailboxes[slot]
        if incarnation != box.incarnation:
            return None
        box.faults[rank], box.last_fault = (blames_trial, text), text
        await self._announce()
        await self._until(lambda: len(box.faults) >= workers or incarnation != box.incarnation, FAULT_WAIT)
        if incarnation != box.incarnation:
            return None
        blamed = next((text for _, (blames, text) in sorted(box.faults.items()) if blames), None)
        if len(box.faults) < workers:
            if blamed is not None:
                box.outcome = ("error", blamed)
                await self._announce()
            return None
        return blamed

    async def _announce(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def _until(self, condition: Any, timeout: float | None = None) -> None:
        async with self.changed:
            try:
                await asyncio.wait_for(self.changed.wait_for(condition), timeout)
            except TimeoutError:
                return


class Conversation:
    """One trial's talk with its slot; `take` yields its epochs in order, from the first on, also after the talker died and came back.

    Args:
        board: handle of the switchboard.
        trial_id: whose claim it is.
        work: for the workers: {"key", "config", "folder"}.
    """

    def __init__(self, board: Any, trial_id: str, work: dict[str, Any]):
        self.board, self.trial_id, self.position = board, trial_id, 0
        ticket = ray.get(board.acquire.remote(trial_id, work))
        if ticket is None:
            raise SlotLost("no worker group could be launched")
        self.ticket: tuple[int, int] = ticket

    def take(self) -> dict[str, Any] | None:
        """The next epoch's metrics, None at the trial's end.

        Raises:
            TrialFailure: the trial ended with an error.
            SlotLost: its worker group is gone for good.
        """
        kind, message = ray.get(self.board.take.remote(self.ticket, self.position))
        if kind == "error":
            raise TrialFailure(message)
        if kind == "lost":
            raise SlotLost(message)
        if kind == "end":
            return None
        self.position += 1
        return {**message, "slot": self.ticket[0]}

    def release(self) -> None:
        """Gives the slot back."""
        ray.get(self.board.release.remote(self.trial_id))


class Slots:
    """The switchboard and the worker groups behind it, for the life of a driver.

    Args:
        count: of slots.
        wanted: resources of one.
        folder: where Ray Train may write.
        fit: what a worker runs for a trial, `trainables.train.fit` or something with its signature.
    """

    def __init__(self, count: int, wanted: Resources, folder: Path, fit: Callable[..., Any] | None = None):
        self.name = f"switchboard-{os.getpid()}-{time.time_ns()}"
        head = {"node:__internal_head__": 0.001}  # the driver's node: everybody talks with it
        actor: Any = ray.remote(Switchboard)
        actor = actor.options(name=self.name, num_cpus=0, max_concurrency=10_000, resources=head)
        self.board = actor.remote(count, wanted.restarts + 1)
        self.closing = False
        self.threads = [threading.Thread(target=self._keep_alive, args=(s, wanted, folder, fit), daemon=True) for s in range(count)]
        for thread in self.threads:
            thread.start()

    def _keep_alive(self, slot: int, wanted: Resources, folder: Path, fit: Callable[..., Any] | None) -> None:
        """Launches a worker group again and again: Ray Train restarts dead workers, this restarts a dead controller."""
        failures = 0
        while not self.closing and failures < LAUNCH_FAILURES:
            try:
                lives = ray.get(self.board.lives.remote(slot))
                why = _launch(self.board, slot, wanted, folder, fit)
                if why is not None and not self.closing:
                    _free(ray.get(self.board.placement.remote(slot)))
                failures = 0 if ray.get(self.board.lives.remote(slot)) > lives else failures + 1
            except Exception as error:
                why, failures = error, failures + 1
            if not self.closing:
                log.warning("slot %d: its worker group ended (%s); launched again", slot, why)
                time.sleep(RELAUNCH_WAIT * failures)
        if not self.closing:
            reason = f"{type(why).__name__}: {(str(why).splitlines() or [''])[0]}"
            ray.get(self.board.give_up.remote(slot, f"slot {slot}: its worker group could not be launched {failures} times: {reason}"))

    def __enter__(self) -> "Slots":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Ends the worker groups; those that are still in an epoch after a while, or after ^C, end with the driver's Ray session."""
        self.closing = True
        if kind is KeyboardInterrupt:
            return
        ray.get(self.board.close.remote())
        end = time.monotonic() + CLOSE_WAIT
        for thread in self.threads:
            thread.join(max(0.0, end - time.monotonic()))


def _launch(board: Any, slot: int, wanted: Resources, folder: Path, fit: Callable[..., Any] | None) -> BaseException | None:
    """Runs a worker group for as long as its controller lives; returns why it ended."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from trainables.ray_train import slot_loop

    per_worker: Mapping[str, float] = {"CPU": wanted.cpus_per_worker, **({"GPU": wanted.gpus_per_worker} if wanted.gpus_per_worker else {})}
    trainer = TorchTrainer(
        slot_loop,
        train_loop_config={"board": board, "slot": slot, "threads": wanted.cpus_per_worker, "fit": fit},
        scaling_config=ScalingConfig(num_workers=wanted.workers, use_gpu=wanted.gpus_per_worker > 0, resources_per_worker=dict(per_worker)),
        # its count of failures is cumulative over the life of a controller: attempts are counted trial by trial on the switchboard, and a
        # controller that has had its share is launched again
        run_config=RunConfig(name=f"slot-{slot}", storage_path=str(folder), failure_config=FailureConfig(max_failures=5)),
    )
    try:
        return trainer.fit().error
    except ray.exceptions.ActorDiedError as death:  # the controller was killed
        return death


def _free(placement: str | None) -> None:
    """Gives back what a dead controller's placement group holds, and ends the workers in it.

    Ray Train leaves that to a helper which needs the dashboard; without it the next controller would wait for the same CPUs for ever.
    """
    if placement is not None:
        remove_placement_group(PlacementGroup(PlacementGroupID.from_hex(placement)))
