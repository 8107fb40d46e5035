"""The switchboard decides which slots train which trial. It is plain asyncio; Ray runs it as one light actor.

A trial's `Claim` begins with `acquire` and ends with `release`. A `Life` of a slot's worker group begins with `attach`
and ends when the group goes down or is fenced; the next life has the next incarnation. Claims wait in a queue. Slots
whose workers ask for work take the first claim, one slot or several together: a `Generation`. When its slots are to
change, its workers leave the trial with a checkpoint, and the next generation goes on from there; no worker is started
or stopped. When a life ends in the middle, its claim returns to the head of the queue, and the lives that are left take
it again at once.
"""

import asyncio
import contextlib
import functools
import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from trainables.running.messages import Assignment, Blame, EpochReport, Going, NoWork, Outcome, Position, Wanted, Work
from tuner.fleet.claims import Ended, Group, Life, Message, State, verdict
from tuner.fleet.roster import POSTPONE_WAIT, Roster

FAULT_WAIT = 8.0  # seconds for all ranks to report after one of them failed
LINK_WAIT = 2.0  # the same for the slots of a generation, where nothing but the link between them is at fault
NEXT_WAIT = 20.0  # seconds that a group waits for work before it asks again


class Switchboard:
    """An asynchronous actor. Trials of Tune call claimed and take; workers attach, next, wanted, beat, post,
    acknowledge and fault; the driver acquire, release, expect, resize, retire, watch, down, give_up, forget, hold,
    halt, close and state.

    Args:
        attempts: how often a trial may be started without a new epoch.
        patience: seconds without progress after which workers count as stuck.
    """

    def __init__(self, attempts: int, patience: float = math.inf):
        self.roster, self.patience = Roster(attempts), patience
        self.over: set[str] = set()  # trials, by Tune's id
        self.closed = False
        self.changed = asyncio.Condition()

    # the side of Tune's trials

    async def claimed(self, trial_id: str) -> int | None:
        """Returns the number of the claim that the driver has made for a trial; None where the trial is over."""
        return next((claim.sequence for claim in self.roster.claims.values() if claim.trial_id == trial_id), None)

    async def take(self, sequence: int, position: int) -> Message:
        """Waits for message `position` of a claim, and lets the workers go on to it.

        Returns:
            ("report", EpochReport), ("end", None), ("error", text), or ("lost", text) if no slot is left.
        """
        claim = self.roster.claims.get(sequence)
        if claim is None:
            return "lost", "the trial is over"
        claim.requested = max(claim.requested, position + 1)
        await self._announce()
        await self._until(
            lambda: (
                len(claim.reports) > position or claim.outcome is not None or claim.over or bool(self.roster.hopeless)
            )
        )
        if not claim.over and len(claim.reports) > position:
            return "report", claim.reports[position]
        if claim.over:
            return "lost", "the trial is over"
        return claim.outcome or ("lost", self.roster.hopeless)

    # the driver's side

    async def acquire(self, trial_id: str, work: Work) -> int | None:
        """Puts a trial's claim into the queue and returns the claim's number; None where the trial is over.

        The same trial gets the same number again.
        """
        if trial_id in self.over:
            return None
        claim = self.roster.claim(trial_id, work)
        await self._announce()
        return claim.sequence

    async def release(self, trial_id: str) -> None:
        """Ends a trial's claim for good. Workers that still train it stop at their next step."""
        self.over.add(trial_id)
        for claim in [claim for claim in self.roster.claims.values() if claim.trial_id == trial_id]:
            claim.over = True
            claim.leave("the trial is over")
            del self.roster.claims[claim.sequence]
            self.roster.counts.pop(claim.work.key, None)
        await self._announce()

    async def expect(self, slot: int) -> None:
        """There is another slot, whose workers will attach."""
        self.roster.groups.setdefault(slot, Group())

    async def resize(self, counts: Mapping[str, tuple[int, ...]]) -> None:
        """Trials are to hold another number of slots from their next step on.

        Args:
            counts: the numbers of slots that a trial may hold, by its key: ascending from 1, to the one that it is to
                hold.
        """
        self.roster.counts |= counts
        for claim in self.roster.claims.values():
            claim.counts = self.roster.counts.get(claim.work.key, claim.counts)
        await self._announce()

    async def retire(self, slots: Collection[int], why: str) -> None:
        """Ends slots in order: trials leave them at their next step, then their workers go home."""
        for slot in slots:
            group = self.roster.groups[slot]
            group.retired = why
            if group.life is not None:
                group.life.retire(why)
        await self._announce()

    async def watch(self, dead_nodes: Iterable[str], draining_nodes: Iterable[str] = ()) -> list[Ended]:
        """Ends the lives of groups whose node is dead, or that have made no progress for too long; returns those lives.

        So does it with those that do not notice that their generation has lost a member. A dead node excuses every
        generation with a worker on it, even one that ended before the news came. The slots on a node that is about to
        go, which Ray calls draining, are retired. Workers without progress are first asked for their stacks.
        """
        ended = self.roster.watch(set(dead_nodes), set(draining_nodes), self.patience)
        await self._announce()
        return ended

    async def down(self, slot: int, why: str, excused: bool) -> tuple[str | None, bool]:
        """A slot's worker group has ended, together with its controller.

        Args:
            slot: its index.
            why: the reason.
            excused: whether the end is not the fault of the trial that it trained.

        Returns:
            The id of its placement group, and whether its workers were up since the last call.
        """
        group = self.roster.groups[slot]
        if group.life is not None:
            group.life.excuse = why if excused else None
            self.roster.end_life(group, why)
            await self._announce()
        came_up, group.came_up, group.broken = group.came_up, False, None
        return group.placement, came_up

    async def give_up(self, slot: int, why: str) -> None:
        """Marks a slot whose worker group cannot be launched, until its workers are up or its next launch has ended.

        No trial waits for workers any more while all slots are marked.
        """
        self.roster.groups[slot].broken = why
        self.roster.end_life(self.roster.groups[slot], why)
        await self._announce()

    async def forget(self, slot: int) -> None:
        """A slot that was retired has ended."""
        if (group := self.roster.groups.pop(slot, None)) is not None:
            self.roster.end_life(group, "its slot has ended")
        await self._announce()

    async def hold(self, why: str) -> None:
        """Has all trials left at their next step, and none started, while there is a reason; "" ends that."""
        self.roster.held = why
        if why:
            for claim in self.roster.claims.values():
                claim.leave(why)
        await self._announce()

    async def halt(self) -> None:
        """Has all trials make a checkpoint at their next step, and start no more; returns when all are left."""
        self.roster.closed = True
        for claim in self.roster.claims.values():
            claim.leave("the search is interrupted")
        await self._announce()
        await self._until(lambda: all(claim.generation is None for claim in self.roster.claims.values()))

    async def close(self) -> None:
        """Sends the worker groups home, each at its next step."""
        self.closed = self.roster.closed = True
        for claim in self.roster.claims.values():
            claim.over = True
            claim.leave("the search is over")
        await self._announce()

    async def state(self) -> State:
        """A summary for the driver."""
        return self.roster.state()

    # the workers' side

    async def attach(
        self,
        slot: int,
        placement: str | None = None,
        nodes: Sequence[str] = (),
        store: tuple[str, int] = ("", 0),
    ) -> int:
        """The workers of a slot are up.

        Args:
            slot: its index.
            placement: id of the placement group that holds their resources.
            nodes: ids of the nodes that they run on, in the order of their ranks.
            store: host and port of the first worker's store.

        Returns:
            Their incarnation. That of workers whose slot has ended is no life's: `next` sends them home.
        """
        incarnation = self.roster.attach(slot, placement, nodes, store)
        await self._announce()
        return incarnation

    async def next(self, slot: int, incarnation: int) -> Assignment | NoWork:
        """The work of a slot, for its first worker; "ask again" after NEXT_WAIT seconds without any.

        "leave" if the slots close, if this one retires, or if this life has ended: its workers return, and give their
        resources back.
        """
        end = time.monotonic() + NEXT_WAIT
        while True:
            life = self.roster.life(slot, incarnation)
            if self.closed or life is None or (life.retiring and life.generation is None):
                return "leave"
            if life.generation is None:
                life.asks = True
                await self._announce()
            if life.generation is not None and not life.told:
                life.told = True
                life.moved()
                return self.roster.assignment(life, life.generation)
            now = time.monotonic()
            if now >= end:
                life.asks = False
                return "ask again"
            look = min([end, *(claim.due_at for claim in self.roster.queue() if claim.due_at > now)])
            await self._until(functools.partial(self._is_called, life), max(0.01, look - now))

    async def wanted(self, slot: int, incarnation: int, generation: int, stacks: bool = False) -> Wanted:
        """What a worker is asked in the middle of a trial; returns when there is something, or after NEXT_WAIT seconds.

        Args:
            slot: its slot.
            incarnation: of the slot.
            generation: that it trains in.
            stacks: whether it has already written its stacks.
        """

        answer = functools.partial(self.roster.asked, slot, incarnation, generation, stacks)
        await self._until(lambda: answer() != "ask again", NEXT_WAIT)
        return answer()

    async def beat(self, slot: int, incarnation: int, position: Position | None = None) -> None:
        """The workers have made progress, and are at a position of their trial."""
        life = self.roster.life(slot, incarnation)
        if life is not None and life.progress < math.inf:
            life.moved()
            if life.generation is not None:
                claim = life.generation.claim
                claim.position = position or claim.position
                if time.monotonic() - life.generation.taken > POSTPONE_WAIT:  # the start of a try proves nothing
                    claim.postponed = ""

    async def post(self, slot: int, incarnation: int, generation: int, report: EpochReport) -> Going:
        """Takes an epoch's report from rank 0; returns when the next epoch is requested, or the generation ends.

        So a trial that is stopped wastes no step. Epochs that the trial heard before a restart pass at once.
        """
        run = self.roster.training(slot, incarnation, generation)
        if run is None or not run.is_current:
            return "stop"
        claim = run.claim
        if claim.reports and report.epoch <= claim.reports[-1].epoch:
            run.moved()
            return "on"
        claim.reports.append(report)
        claim.postponed = ""
        claim.tries = [run]  # the trial makes progress: only deaths in the same epoch count against it
        for life in run.present:
            life.progress = math.inf
        await self._announce()
        await self._until(lambda: claim.requested > len(claim.reports) or bool(run.leaving) or not run.is_current)
        run.moved()  # also of a trial that is over: its workers have to acknowledge that
        if not run.is_current:
            return "stop"
        return "leave" if run.leaving else "on"

    async def acknowledge(self, slot: int, incarnation: int, generation: int, outcome: Outcome) -> None:
        """The workers of a slot are done with a generation."""
        life, run = self.roster.life(slot, incarnation), self.roster.training(slot, incarnation, generation)
        if life is None or run is None:
            return
        life.generation, life.progress = None, math.inf
        run.present.discard(life)
        if run.claim.generation is run and (outcome[0] != "left" or not run.present):
            self.roster.settle(run, outcome)
        await self._announce()

    async def fault(
        self, slot: int, incarnation: int, generation: int, rank: int, workers: int, blame: Blame, text: str
    ) -> Outcome | None:
        """Takes a rank's error; returns the outcome for all ranks. None: its worker group has to be restarted.

        There is an outcome if all ranks report and one of them knows the cause. Slots of which some ranks do not
        report, because they are dead or hang in a sum that the failed rank never joins, are restarted. The other slots
        of the generation leave it then, and go on without them; a known cause counts all the same.

        Args:
            slot: of the rank.
            incarnation: of the slot.
            generation: number of the generation.
            rank: in the generation.
            workers: of the generation.
            blame: whose fault it is.
            text: of the error.
        """
        life, run = self.roster.life(slot, incarnation), self.roster.training(slot, incarnation, generation)
        if life is None or run is None:
            return None
        run.faults[rank] = (blame, text)
        life.moved()  # the rank waits for the other ranks now
        run.claim.said = text
        await self._announce()
        one_slot = len(run.lives) == 1
        await self._until(
            lambda: run.settled or life.gone or len(run.reported(workers)) == len(run.present),
            FAULT_WAIT if one_slot or verdict(run.faults) else LINK_WAIT,
        )
        if not run.settled and not life.gone:
            self.roster.settle_faults(run, workers)
            await self._announce()
        return None if life.gone else run.outcome

    # within

    def _is_called(self, life: Life) -> bool:
        """Whether there is an answer for a life that asks for work."""
        has_work = life.generation is not None and not life.told
        return self.closed or life.gone or bool(life.retiring) or has_work

    async def _announce(self) -> None:
        """Arranges anew, and wakes all who wait."""
        self.roster.arrange()
        async with self.changed:
            self.changed.notify_all()

    async def _until(self, condition: Callable[[], bool], timeout: float | None = None) -> None:
        async with self.changed:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.changed.wait_for(condition), timeout)
