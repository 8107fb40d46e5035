"""Keeps the worker group of one slot alive. This module imports no torch."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ray
from ray import PlacementGroupID
from ray.util.placement_group import PlacementGroup, remove_placement_group

from tuner.fleet.board import Board, Fit
from tuner.fleet.nodes import Room, abandoned, first_line, needs_of
from tuner.plan.resources import Resources

log = logging.getLogger(__name__)
RELAUNCH_WAIT = 5.0  # seconds before a worker group is launched again, times the failures so far
RELAUNCH_LIMIT = 60.0  # seconds of this wait at most
LAUNCH_FAILURES = 5  # failed launches in a row after which a slot is given up, if no other slot is up then
ROOM_LOOK = 2.0  # seconds between two looks for room for a slot


@dataclass(frozen=True)
class Site:
    """What the slots of a driver have in common.

    Attributes:
        board: handle of the switchboard.
        resources: of a trial; a slot has its smallest number of workers.
        folder: where Ray Train may write.
        room: gives the free resources of the cluster.
        dead_nodes: returns the nodes that have left the cluster.
        fit: runs a trial in place of `trainables.running.fit.fit`.
    """

    board: Board
    resources: Resources
    folder: Path
    room: Room
    dead_nodes: Callable[[], frozenset[str]]
    fit: Fit | None = None


class Keeper:
    """A thread that keeps the worker group of a slot alive until the slot ends.

    It waits for room on the cluster, without a limit, and launches the group. Ray Train restarts dead workers; when the
    group's controller has ended, the keeper launches the group again. A slot whose group has room but does not come up
    is given up after LAUNCH_FAILURES launches. It is launched again all the same, since a faulty node may be mended
    while other slots work: only the switchboard ends a search, once every slot is given up.

    Args:
        slot: index of the slot.
        site: of all slots.

    Attributes:
        lacks: why the workers are not up; empty where they are, or start for the first time. A slot whose last launch
            failed keeps this reason while it is launched again.
        waits: whether it waits for room or for its next launch, and holds no resources.
        ends: whether the slot is to end once its workers have gone home.
    """

    def __init__(self, slot: int, site: Site):
        self.slot, self.lacks, self.waits = slot, "", True
        self._known = ""  # why the last launch failed; empty where it did not
        self._site, self._ending = site, threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True, name=f"slot-{slot}")
        self.thread.start()

    @property
    def ends(self) -> bool:
        return self._ending.is_set()

    @property
    def ended(self) -> bool:
        """Whether its slot has ended."""
        return not self.thread.is_alive()

    def end(self) -> None:
        """Ends the slot once its workers have gone home, which the switchboard has them do."""
        self._ending.set()

    def _run(self) -> None:
        failures, site = 0, self._site
        while self._room_comes():
            dead = site.dead_nodes()
            why = _launch(site, self.slot)
            site.room.settle(self.slot)
            try:
                came_up = self._came_up(why)
                lacked_room = not came_up and _lacked_room(why)
                at_fault = not (came_up or lacked_room or site.dead_nodes() > dead)
                failures = 0 if came_up else failures + at_fault
                if self.ends:
                    return
                self._known = self._failed(failures, why) if at_fault else self._lacked() if lacked_room else ""
                self.lacks = self._known
                if at_fault and failures >= LAUNCH_FAILURES and not ray.get(site.board.state.remote()).up:
                    ray.get(site.board.give_up.remote(self.slot, f"slot {self.slot}: {self._known}"))
            except ray.exceptions.RayError as error:  # `Watch` ends the search if the switchboard is dead
                log.warning("slot %d: the switchboard does not answer (%s)", self.slot, first_line(error))
            told = self._known or f"its worker group ended ({first_line(_cause(why))})"
            log.warning("slot %d: %s; launched again", self.slot, told, exc_info=None if _lacked_room(why) else why)
            self.waits = True
            self._ending.wait(min(max(1.0, RELAUNCH_WAIT * failures), RELAUNCH_LIMIT))

    def _room_comes(self) -> bool:
        """Waits until a worker group fits into the free resources; returns False when the slot ends."""
        self.waits = True
        while not self.ends:
            lacks = self._site.room.take(self.slot)
            self.lacks = lacks or self._known
            if not lacks:
                self.waits = False
                return True
            free_abandoned()  # what this slot lacks may be held by a group whose controller was killed
            self._ending.wait(ROOM_LOOK)
        return False

    def _lacked(self) -> str:
        """Words for a launch that lacked room."""
        needs = needs_of(self._site.resources)
        return f"no room for {needs}: other work took what was free before its workers were up"

    @staticmethod
    def _failed(failures: int, why: BaseException | None) -> str:
        """Words for a launch that failed though there was room."""
        return f"launch {failures} of its worker group failed: {first_line(_cause(why))}"

    def _came_up(self, why: BaseException | None) -> bool:
        """Frees the resources of a group that has ended; returns whether its workers had been up."""
        excused = isinstance(why, ray.exceptions.RayActorError)  # the controller was killed: not the fault of a trial
        reason = f"its worker group ended ({first_line(_cause(why))})"
        placement, came_up = ray.get(self._site.board.down.remote(self.slot, reason, excused))
        free(placement)
        return came_up


def preload() -> None:
    """Imports Ray Train, which takes seconds, while the switchboard starts."""
    import tuner.fleet.trainer  # noqa: F401


def _launch(site: Site, slot: int) -> BaseException | None:
    """Runs a worker group for as long as its controller lives; returns why it ended."""
    from tuner.fleet.trainer import trainer  # not before a slot needs it: see `preload`

    try:
        return trainer(site.board, slot, site.resources, site.folder, site.fit).fit().error
    except Exception as error:  # of any kind: the group is gone, and launched again
        return error


def _lacked_room(why: BaseException | None) -> bool:
    """Whether a group did not come up because others had taken the resources meanwhile."""
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

    return isinstance(_cause(why), WorkerGroupStartupTimeoutError)


def _cause(why: BaseException | None) -> BaseException | None:
    """What ended a group: Ray Train's own error of a controller has it inside, and no words of its own."""
    from ray.train import ControllerError

    return why.controller_failure if isinstance(why, ControllerError) else why


def free_abandoned() -> None:
    """Removes the placement groups of controllers that were killed before their workers were up."""
    try:
        left = abandoned()
    except Exception as error:  # of many kinds, if Ray's head does not answer; the next look tries again
        log.warning("the cluster does not say which placement groups it has (%s)", first_line(error))
        return
    free(*left)


def free(*placements: str | None) -> None:
    """Removes placement groups of dead controllers, which ends the workers in them.

    Ray Train leaves that to a helper that needs the dashboard; otherwise the next controller would lack the same CPUs.
    """
    for placement in filter(None, placements):
        try:
            remove_placement_group(PlacementGroup(PlacementGroupID.from_hex(placement)))
        except Exception as error:  # of many kinds; the other groups are removed all the same
            log.warning("placement group %s could not be removed (%s)", placement, first_line(error), exc_info=True)
