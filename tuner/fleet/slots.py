"""Slots: warm Ray Train worker groups that run one trial after another, kept alive by the driver.

Ray Train starts a worker group in about 10 s; a warm group gets its next trial in a fraction of a second. The
switchboard decides which group trains which trial. This module imports no torch.
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
from ray._private.state import available_resources_per_node  # the public way needs the dashboard
from ray.util.placement_group import PlacementGroup, remove_placement_group

from trainables.config.errors import BrokenOff, TrialFailure
from trainables.running.messages import EpochReport, Position, Work
from tuner.fleet.board import Board, Fit
from tuner.fleet.claims import State
from tuner.fleet.switchboard import POSTPONE_WAIT, Switchboard
from tuner.plan.resources import Resources
from tuner.search.allocation import demand_of, places_on

log = logging.getLogger(__name__)
RELAUNCH_WAIT = 5.0  # seconds before a worker group is launched again, times the failures so far
RELAUNCH_LIMIT = 60.0  # seconds of this wait at most
LAUNCH_FAILURES = 3  # failed launches in a row after which a slot is given up, if no other slot is up
LOOK = 1.0  # seconds between two looks at nodes and workers
WAIT_TOLD = 5.0  # seconds of waiting before it is told: the resources of a dead group are not free at once
ROOM_LOOK = 2.0  # seconds between two looks for room for a slot
CLOSE_WAIT = 15.0  # seconds for a worker group to end

VARIABLES = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # how often Ray Train polls its workers
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # an actor that a slot does not need
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10",  # for the resources of a worker group
    "OMP_NUM_THREADS": "1",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # without it cuBLAS may sum in any order
}


class SlotLost(RuntimeError):
    """No worker group is left for a trial; that is not the fault of the trial."""


class Conversation:
    """A trial's conversation with its workers. `take` returns its epochs in order, from the first one on.

    Args:
        board: handle of the switchboard.
        trial_id: of the trial that makes the claim.
        work: for the workers.
    """

    def __init__(self, board: Board, trial_id: str, work: Work):
        self.board, self.trial_id, self.position = board, trial_id, 0
        sequence = ray.get(board.acquire.remote(trial_id, work))
        if sequence is None:
            raise SlotLost("the trial is over")
        self.sequence: int = sequence

    def take(self) -> EpochReport | None:
        """The next epoch; None at the trial's end.

        Raises:
            TrialFailure: the trial ended with an error.
            SlotLost: no slot is left to run it.
        """
        message = ray.get(self.board.take.remote(self.sequence, self.position))
        if message[0] == "report":
            self.position += 1
            return message[1]
        if message[0] == "error":
            raise TrialFailure(message[1])
        if message[0] == "lost":
            raise SlotLost(message[1])
        return None

    def release(self) -> None:
        """Ends the claim."""
        ray.get(self.board.release.remote(self.trial_id))


class Slots:
    """The switchboard and the worker groups behind it, for the life of a driver.

    A thread for each slot keeps its worker group alive: it waits for room on the cluster, without a limit, launches the
    group, and launches it again when it has ended. A slot whose group has room but does not come up is given up after
    LAUNCH_FAILURES launches. One more thread looks for lost nodes and for workers that make no progress.

    Args:
        count: number of slots.
        resources: of one slot.
        folder: where Ray Train may write.
        fit: runs a trial in place of `trainables.running.fit.fit`.
        local: whether the cluster is this driver's own, so that there is no autoscaler.

    Attributes:
        on_wait: called with the reason when no trial can be trained, or when a trial waits for a disc or the network;
            called with "" when that is over.
        on_positions: called every second with the positions of the trials that workers train, by their keys.
    """

    def __init__(self, count: int, resources: Resources, folder: Path, fit: Fit | None = None, local: bool = False):
        self.name = f"switchboard-{os.getpid()}-{time.time_ns()}"
        head = {"node:__internal_head__": 0.001}  # the driver's node: everybody talks with it
        actor: Any = ray.remote(Switchboard)
        actor = actor.options(name=self.name, num_cpus=0, max_concurrency=10_000, resources=head)
        self.board: Board = actor.remote(count, resources.restarts + 1, resources.patience_seconds)
        self.on_wait: Callable[[str], None] = lambda why: None
        self.on_positions: Callable[[Mapping[str, Position]], None] = lambda positions: None
        self._resources, self._folder, self._fit, self._local = resources, folder, fit, local
        self._closing, self._lock = threading.Event(), threading.Lock()
        self._launching: dict[int, float] = {}  # slots that have been given room and are not up yet, and since when
        self._no_room: dict[int, str] = {}  # slots that are not up, and why
        self._dead: set[str] = set()  # nodes
        self._why, self._waiting_since = "", time.monotonic()
        self._threads = [threading.Thread(target=self._keep_alive, args=(slot,), daemon=True) for slot in range(count)]
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        for thread in (*self._threads, self._watcher):
            thread.start()

    def state(self) -> State:
        """A summary of the switchboard."""
        return ray.get(self.board.state.remote())

    def release(self, trial_id: str) -> None:
        """Ends a trial's claim."""
        ray.get(self.board.release.remote(trial_id))

    def _watch(self) -> None:
        """Ends groups that lost a node or make no progress, and frees their resources, until the slots close."""
        told = ""
        while not self._closing.wait(LOOK):
            try:
                self._dead = {node["NodeID"] for node in ray.nodes() if not node["Alive"]}
                ended = ray.get(self.board.watch.remote(self._dead))
                for life in ended:
                    log.warning("slot %d: %s; its trial goes on with other workers", life.slot, life.why)
                _free(*(life.placement for life in ended))
                state = self.state()
                self._note(state)
                self.on_positions(state.positions)
            except Exception as error:  # Ray raises errors of many kinds if its head does not answer; it may come back
                if _first_line(error) != told and not self._closing.is_set():
                    told = _first_line(error)
                    log.warning("the cluster cannot be looked at: %s", told, exc_info=True)

    def _note(self, state: State) -> None:
        """Works out why no trial is trained, and tells of a change."""
        with self._lock:
            for slot in state.up:
                self._launching.pop(slot, None)
                self._no_room.pop(slot, None)
            for slot, since in [*self._launching.items()]:
                # a slot that starts for so long may hang; others do not wait for it
                if time.monotonic() - since > self._resources.patience_seconds:
                    del self._launching[slot]
                    patience = self._resources.patience
                    self._no_room[slot] = f"the workers of slot {slot} have been starting for {patience}"
                    log.warning("%s", self._no_room[slot])
            starting, lacking = bool(self._launching), next(iter(self._no_room.values()), "")
        why = f"{state.postponed}; that is tried every {POSTPONE_WAIT:g} seconds" if state.postponed else ""
        if state.waiting and not state.busy and not why:
            why = state.why if state.up else "" if starting else lacking
        self._waiting_since = time.monotonic() if not why else self._waiting_since
        if why and time.monotonic() - self._waiting_since < WAIT_TOLD:
            return
        if why != self._why:
            self._why = why
            log.warning("waiting: %s", why) if why else log.warning("waiting is over")
            self.on_wait(why)

    def _keep_alive(self, slot: int) -> None:
        """Launches a worker group again and again: Ray Train restarts dead workers, this restarts a dead controller."""
        failures = 0
        while self._room_comes(slot):
            dead = self._dead
            why = _launch(self.board, slot, self._resources, self._folder, self._fit, self._local)
            with self._lock:
                self._launching.pop(slot, None)
            if self._closing.is_set():
                return
            try:
                if self._came_up(slot, why):
                    failures = 0
                elif not (_lacked_room(why) or self._dead > dead):
                    failures += 1
                if failures >= LAUNCH_FAILURES and not self.state().up:  # a faulty node may be mended while others work
                    reason = f"its worker group could not be launched {failures} times: {_first_line(why)}"
                    ray.get(self.board.give_up.remote(slot, f"slot {slot}: {reason}"))
                    return
            except ray.exceptions.RayError as error:  # `Watch` ends the search if the switchboard is dead
                log.warning("slot %d: the switchboard does not answer (%s)", slot, _first_line(error))
            log.warning("slot %d: its worker group ended (%s); launched again", slot, _first_line(why), exc_info=why)
            self._closing.wait(min(max(1.0, RELAUNCH_WAIT * failures), RELAUNCH_LIMIT))

    def _came_up(self, slot: int, why: BaseException | None) -> bool:
        """Frees the resources of a group that has ended; returns whether its workers had been up."""
        excused = isinstance(why, ray.exceptions.RayActorError)  # the controller was killed: not the fault of a trial
        reason = f"its worker group ended ({_first_line(why)})"
        placement, came_up = ray.get(self.board.down.remote(slot, reason, excused))
        _free(placement)
        return came_up

    def _room_comes(self, slot: int) -> bool:
        """Waits until a worker group fits into the free resources; returns False when the slots close."""
        workers = self._resources.smallest
        needs = " and ".join(f"{amount:g} {kind}" for kind, amount in demand_of(self._resources).items())
        group = f"{workers} workers" if workers > 1 else "a worker"
        while not self._closing.is_set():
            try:
                nodes = available_resources_per_node().values()
            except Exception as error:  # of many kinds, if Ray's head does not answer
                lack = f"the cluster does not say what is free ({_first_line(error)})"
            else:
                places = places_on(nodes, self._resources)
                with self._lock:
                    if places >= workers * (1 + len(self._launching)):
                        self._launching[slot] = time.monotonic()
                        self._no_room.pop(slot, None)
                        return True
                lack = f"no room for {group} of {needs}: {places} would fit into what is free (nodes: {len(nodes)})"
            with self._lock:
                self._no_room[slot] = lack
            self._closing.wait(ROOM_LOOK)
        return False

    def __enter__(self) -> "Slots":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Ends the worker groups. Those still in an epoch after CLOSE_WAIT seconds, or after ^C, end with Ray."""
        self._closing.set()
        if kind in (KeyboardInterrupt, BrokenOff):  # the switchboard may be what is gone
            return
        try:
            ray.get(self.board.close.remote())
        except ray.exceptions.RayError as error:
            log.warning("the switchboard cannot be closed (%s)", _first_line(error))
            return
        self._watcher.join(CLOSE_WAIT)
        end = time.monotonic() + CLOSE_WAIT
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))


def _first_line(why: BaseException | None) -> str:
    return f"{type(why).__name__}: {(str(why).splitlines() or [''])[0]}" if why else "its workers went home"


def _launch(
    board: Board, slot: int, resources: Resources, folder: Path, fit: Fit | None, local: bool
) -> BaseException | None:
    """Runs a worker group for as long as its controller lives; returns why it ended."""
    from tuner.fleet.trainer import trainer  # imports Ray Train, while the switchboard starts

    try:
        return trainer(board, slot, resources, folder, fit, local).fit().error
    except Exception as error:  # of any kind: the group is gone, and launched again
        return error


def _lacked_room(why: BaseException | None) -> bool:
    """Whether a group did not come up because others had taken the resources meanwhile."""
    from ray.train import ControllerError
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

    return isinstance(why, ControllerError) and isinstance(why.controller_failure, WorkerGroupStartupTimeoutError)


def _free(*placements: str | None) -> None:
    """Removes placement groups of dead controllers, which ends the workers in them.

    Ray Train leaves that to a helper that needs the dashboard; otherwise the next controller would lack the same CPUs.
    """
    for placement in filter(None, placements):
        try:
            remove_placement_group(PlacementGroup(PlacementGroupID.from_hex(placement)))
        except Exception as error:  # of many kinds; the other groups are removed all the same
            log.warning("placement group %s could not be removed (%s)", placement, _first_line(error), exc_info=True)
