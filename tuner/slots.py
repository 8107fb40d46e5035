"""Slots: warm Ray Train worker groups that run one trial after another, kept alive by the driver, and a trial's talk with them.

Starting a worker group takes Ray Train 10 s and more, handing a trial to a warm one a fraction of a second. Which group works
on which trial is for the switchboard to say. This module is free of torch.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray
from ray import PlacementGroupID
from ray.util.placement_group import PlacementGroup, remove_placement_group

from trainables.errors import BrokenOff, TrialFailure
from tuner.claims import State
from tuner.spec import Resources
from tuner.switchboard import Switchboard

log = logging.getLogger(__name__)
RELAUNCH_WAIT = 5.0  # seconds before a worker group is launched again, times the failures so far
LAUNCH_FAILURES = 3  # launches of a worker group that fail in a row before its slot is given up
CLOSE_WAIT = 15.0  # seconds for a worker group to end

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


class Conversation:
    """One trial's talk with its workers; `take` yields its epochs in order, from the first on, also after the talker died and came back.

    Args:
        board: handle of the switchboard.
        trial_id: whose claim it is.
        work: for the workers: {"key", "config", "folder"}.
    """

    def __init__(self, board: Any, trial_id: str, work: dict[str, Any]):
        self.board, self.trial_id, self.position = board, trial_id, 0
        sequence = ray.get(board.acquire.remote(trial_id, work))
        if sequence is None:
            raise SlotLost("the trial is over")
        self.sequence: int = sequence

    def take(self) -> dict[str, Any] | None:
        """The next epoch's metrics, None at the trial's end.

        Raises:
            TrialFailure: the trial ended with an error.
            SlotLost: no slot is left to run it.
        """
        kind, message = ray.get(self.board.take.remote(self.sequence, self.position))
        if kind == "error":
            raise TrialFailure(message)
        if kind == "lost":
            raise SlotLost(message)
        if kind == "end":
            return None
        self.position += 1
        return message

    def release(self) -> None:
        """Ends the claim."""
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
                    excused = isinstance(why, ray.exceptions.ActorDiedError)  # the controller was killed
                    _free(ray.get(self.board.down.remote(slot, f"its controller ended: {_first_line(why)}", excused)))
                failures = 0 if ray.get(self.board.lives.remote(slot)) > lives else failures + 1
            except Exception as error:
                why, failures = error, failures + 1
            if not self.closing:
                log.warning("slot %d: its worker group ended (%s); launched again", slot, why)
                time.sleep(RELAUNCH_WAIT * failures)
        if not self.closing:
            reason = f"slot {slot}: its worker group could not be launched {failures} times: {_first_line(why)}"
            ray.get(self.board.give_up.remote(slot, reason))

    def state(self) -> State:
        """What is going on on the switchboard."""
        return ray.get(self.board.state.remote())

    def __enter__(self) -> "Slots":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Ends the worker groups; those that are still in an epoch after a while, or after ^C, end with the driver's Ray session."""
        self.closing = True
        if kind in (KeyboardInterrupt, BrokenOff):  # the switchboard may be what is gone
            return
        ray.get(self.board.close.remote())
        end = time.monotonic() + CLOSE_WAIT
        for thread in self.threads:
            thread.join(max(0.0, end - time.monotonic()))


def _first_line(why: BaseException | None) -> str:
    return f"{type(why).__name__}: {(str(why).splitlines() or [''])[0]}"


def _launch(board: Any, slot: int, wanted: Resources, folder: Path, fit: Callable[..., Any] | None) -> BaseException | None:
    """Runs a worker group for as long as its controller lives; returns why it ended."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from trainables.ray_train import slot_loop

    per_worker: Mapping[str, float] = {"CPU": wanted.cpus_per_worker, **({"GPU": wanted.gpus_per_worker} if wanted.gpus_per_worker else {})}

    class Trainer(TorchTrainer):
        """Without Ray Train's helper that outlives the driver to remove a placement group: it needs the dashboard's State API, and without
        it lives on for ever, with 200 MB. Here the driver removes what a dead controller leaves, and Ray what a dead driver does."""

        def _create_default_callbacks(self) -> list[Any]:
            default = super()._create_default_callbacks()  # type: ignore[misc]  # not public; where it is not there, nothing is left out
            return [callback for callback in default if type(callback).__name__ != "PlacementGroupCleanerCallback"]

    trainer = Trainer(
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
