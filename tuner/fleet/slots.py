"""Slots: warm Ray Train worker groups that run one trial after another, kept alive by the driver.

Ray Train starts a worker group in about 10 s; a warm group gets its next trial in a fraction of a second. The number
of slots follows the cluster. The switchboard decides which slots train which trial. This module imports no torch.
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import ray

from trainables.config.errors import BrokenOff
from trainables.running.messages import Work
from tuner.fleet import nodes as cluster_nodes
from tuner.fleet.accounts import HEAD, Account
from tuner.fleet.board import Board, Fit
from tuner.fleet.claims import State
from tuner.fleet.following import changes, number_of_slots, what_lacks
from tuner.fleet.keeper import Keeper, Site, free, preload
from tuner.fleet.nodes import Nodes, Room, first_line
from tuner.fleet.repeated import Repeated
from tuner.fleet.roster import POSTPONE_WAIT
from tuner.fleet.switchboard import Switchboard
from tuner.fleet.wishes import why_interrupted
from tuner.plan.resources import Resources
from tuner.search.allocation import what_fits

log = logging.getLogger(__name__)
LOOK = 1.0  # seconds between two looks at nodes and workers
WAIT_TOLD = 5.0  # seconds of waiting before it is told: the resources of a dead group are not free at once
CLOSE_WAIT = 15.0  # seconds for a worker group to end
HALT_WAIT = 20.0  # seconds for all trials to make a checkpoint when the search is interrupted

VARIABLES = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # how often Ray Train polls its workers
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # an actor that a slot does not need
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10",  # for the resources of a worker group
    "OMP_NUM_THREADS": "1",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # without it cuBLAS may sum in any order
}


class Slots:
    """The switchboard and the worker groups behind it, for the life of a driver.

    Every second one thread looks at the nodes of the cluster and at the switchboard. It begins slots where the cluster
    has room for more that could be used, and ends slots where there are too many: they leave their trials at the next
    step. A `Keeper` for each slot keeps its worker group alive.

    Args:
        useful: how many slots can be used now.
        resources: of a trial; a slot has its smallest number of workers.
        folder: where Ray Train may write.
        fit: runs a trial in place of `trainables.running.fit.fit`.
        account: the driver's account with the other drivers of the cluster; None on a cluster of its own.

    Attributes:
        number: how many slots there should be now.
        useful: how many slots can be used now; it is for `on_look` to keep it up to date.
        on_wait: called with the reason when no trial can be trained, or when a trial waits for a disc or the network;
            called with "" when that is over.
        waiting: the reason that `on_wait` was called with last.
        on_look: called every second, and soon after `look_soon`, with the state of the switchboard.
    """

    def __init__(
        self,
        useful: int,
        resources: Resources,
        folder: Path,
        fit: Fit | None = None,
        account: Account | None = None,
    ):
        self.name = f"switchboard-{os.getpid()}-{time.time_ns()}"
        actor: Any = ray.remote(Switchboard)
        actor = actor.options(name=self.name, num_cpus=0, max_concurrency=10_000, resources=HEAD)
        self.board: Board = actor.remote(resources.restarts + 1, resources.patience_seconds)
        self.number, self.useful = 0, useful
        self.on_wait: Callable[[str], None] = lambda why: None
        self.on_look: Callable[[State], None] = lambda state: None
        self._resources, self._account = resources, account
        self._nodes = Nodes()
        self._room = Room(resources)
        self._site = Site(self.board, resources, folder, self._room, lambda: self._nodes.dead, fit)
        self._keepers: dict[int, Keeper] = {}
        self.waiting, self._waiting_since, self._held = "", time.monotonic(), ""
        self._looks = Repeated(self._look, LOOK, "look at the cluster")
        self._looks.soon()
        self._looks.start()
        threading.Thread(target=preload, daemon=True).start()

    def state(self) -> State:
        """A summary of the switchboard."""
        return ray.get(self.board.state.remote())

    def acquire(self, trial_id: str, work: Work) -> None:
        """Makes a trial's claim: slots that are free take it at once."""
        ray.get(self.board.acquire.remote(trial_id, work))

    def release(self, trial_id: str) -> None:
        """Ends a trial's claim."""
        ray.get(self.board.release.remote(trial_id))

    def resize(self, counts: Mapping[str, tuple[int, ...]]) -> None:
        """Has trials hold another number of slots from their next step on, as `Switchboard.resize` says."""
        ray.get(self.board.resize.remote(counts))

    def hold(self, why: str) -> None:
        """Has no trial trained while there is a reason; "" ends that."""
        self._held = why
        ray.get(self.board.hold.remote(why))

    def look_soon(self) -> None:
        """Has `on_look` called at once, because something has changed."""
        self._looks.soon()

    def _look(self) -> None:
        """Ends groups that lost a node or make no progress, and has the number of slots follow the cluster."""
        self._nodes = nodes = cluster_nodes.look()
        ended = ray.get(self.board.watch.remote(nodes.dead, nodes.draining))
        for life in ended:
            log.warning("slot %d: %s; its trial goes on with other workers", life.slot, life.why)
        free(*(life.placement for life in ended))
        state = self.state()
        self._follow(nodes, state)
        self._note(nodes, state)
        self.on_look(state)

    def _follow(self, nodes: Nodes, state: State) -> None:
        """Begins and ends slots as the cluster, the search and the other searches have it."""
        for slot in [slot for slot, keeper in self._keepers.items() if keeper.ended]:
            del self._keepers[slot]
            ray.get(self.board.forget.remote(slot))
        useful, allowance = max(1, self.useful), None
        if self._account is not None:
            held = sum(not keeper.waits for keeper in self._keepers.values())
            allowance = self._account.allowance(held, useful)
        self.number = number_of_slots(nodes.usable.values(), self._resources, useful, allowance)
        self._retire([slot.slot for slot in state.slots if slot.retiring], "its node is about to go")
        kept = [slot for slot, keeper in self._keepers.items() if not keeper.ends]
        ending = self._keepers.keys() - set(kept)
        todo = changes(self.number, kept, ending, state.slots, self._room.starting().keys())
        self._retire(todo.retire, "there are more slots than can be used")
        for slot in todo.begin:
            ray.get(self.board.expect.remote(slot))
            self._keepers[slot] = Keeper(slot, self._site)

    def _retire(self, slots: Iterable[int], why: str) -> None:
        """Ends slots: their trials leave them at the next step, then their workers go home."""
        ending = [slot for slot in slots if slot in self._keepers and not self._keepers[slot].ends]
        if ending:
            log.info("slots %s end: %s", ", ".join(map(str, ending)), why)
            for slot in ending:  # before its workers go home, or its group would be launched again
                self._keepers[slot].end()
            ray.get(self.board.retire.remote(ending, why))

    def _note(self, nodes: Nodes, state: State) -> None:
        """Works out why no trial is trained, and tells of a change."""
        self._room.settle(*state.up)
        for slot, seconds in self._room.starting().items():
            # a slot that starts for so long may hang; others do not wait for it
            if seconds > self._resources.patience_seconds and slot in self._keepers:
                self._room.settle(slot)
                lacks = f"the workers of slot {slot} have been starting for {self._resources.patience}"
                self._keepers[slot].lacks = lacks
                log.warning("%s", lacks)
        tried = f"; that is tried every {POSTPONE_WAIT:g} seconds"
        why = self._held or (f"{state.postponed}{tried}" if state.postponed else "")
        if state.waiting and not state.busy and not why:
            why = state.why if state.up else self._lacks(nodes)
        self._waiting_since = time.monotonic() if not why else self._waiting_since
        if why and time.monotonic() - self._waiting_since < WAIT_TOLD:
            return
        if why != self.waiting:
            self.waiting = why
            log.warning("waiting: %s", why) if why else log.warning("waiting is over")
            self.on_wait(why)

    def _lacks(self, nodes: Nodes) -> str:
        """Why no workers are up; empty while some are starting whose last launch did not lack room."""
        starting = self._room.starting()
        if self.number == 0 and not starting:
            return f"no room: {what_fits(list(nodes.usable.values()), self._resources)}"
        return what_lacks({slot: keeper.lacks for slot, keeper in self._keepers.items()}, starting)

    def __enter__(self) -> "Slots":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Ends the worker groups.

        After ^C trials make a checkpoint at their next step, and the groups end with their driver; a second ^C ends it
        at once. Otherwise groups that are in an epoch after CLOSE_WAIT seconds end with Ray.
        """
        self._looks.end()
        if kind is BrokenOff:  # the switchboard may be what is gone
            return
        if kind is KeyboardInterrupt:
            self._halt()
            return
        self._looks.join(CLOSE_WAIT)  # or it would begin a slot in place of one that ends
        for keeper in self._keepers.values():
            keeper.end()
        try:
            ray.get(self.board.close.remote())
        except ray.exceptions.RayError as failure:
            log.warning("the switchboard cannot be closed (%s)", first_line(failure))
            return
        end = time.monotonic() + CLOSE_WAIT
        for keeper in self._keepers.values():
            keeper.thread.join(max(0.0, end - time.monotonic()))

    def _halt(self) -> None:
        """Has all trials make a checkpoint at their next step, for some seconds at most."""
        words = f"{why_interrupted()}: trials make a checkpoint; ^C again ends at once"
        print(words, file=sys.__stdout__, flush=True)  # standard output goes to the driver's log
        try:
            ray.get(self.board.halt.remote(), timeout=HALT_WAIT)
        except ray.exceptions.GetTimeoutError:
            log.warning("not all trials made a checkpoint within %g seconds", HALT_WAIT)
        except ray.exceptions.RayError as failure:
            log.warning("the switchboard does not answer (%s)", first_line(failure))
