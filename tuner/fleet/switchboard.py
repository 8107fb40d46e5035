"""The switchboard decides which worker group trains which trial. It is plain asyncio; Ray runs it as one light actor.

A trial's `Claim` begins with `acquire` and ends with `release`. A `Life` of a slot's worker group begins with `attach`
and ends when the group goes down or is fenced; the next life has the next incarnation. Claims wait in a queue. The
workers of a group that is up take the first one, so a claim is never bound to a group without workers. When a life
ends, its claim returns to the head of the queue.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Iterable

from trainables.running.messages import Assignment, Blame, EpochReport, NoWork, Outcome, Position, Work
from tuner.fleet.claims import Claim, Ended, Group, Life, Message, State, verdict

FAULT_WAIT = 8.0  # seconds for all ranks to report after one of them failed
NEXT_WAIT = 20.0  # seconds that a group waits for work before it asks again
POSTPONE_WAIT = 10.0  # seconds until a postponed trial is tried again
NEWS_WAIT = 30.0  # seconds in which news of a lost node may still excuse the last death of a trial's workers


class Switchboard:
    """An asynchronous actor. Tune calls acquire, take and release; workers attach, next, beat, post, acknowledge and
    fault; the driver watch, down, give_up, state and close.

    Args:
        slots: their number.
        attempts: how often a trial may be started without a new epoch.
        patience: seconds without progress after which workers count as stuck.
    """

    def __init__(self, slots: int, attempts: int, patience: float = math.inf):
        self.groups = [Group() for _ in range(slots)]
        self.claims: dict[int, Claim] = {}
        self.attempts, self.patience = attempts, patience
        self.over: set[str] = set()
        self.closed = False
        self.sequence = 0
        self.changed = asyncio.Condition()

    # Tune's side

    async def acquire(self, trial_id: str, work: Work) -> int | None:
        """Puts a trial's claim into the queue and returns the claim's number; None where the trial is over.

        The same trial gets the same number again: Tune hands a trial to an actor that another one left, and may
        nevertheless start the actor that it had begun to make for it.
        """
        if trial_id in self.over:
            return None
        for claim in self.claims.values():
            if claim.trial_id == trial_id:
                return claim.sequence
        self.sequence += 1
        self.claims[self.sequence] = Claim(trial_id, self.sequence, work)
        await self._announce()
        return self.sequence

    async def take(self, sequence: int, position: int) -> Message:
        """Waits for message `position` of a claim, and lets the workers go on to it.

        Returns:
            ("report", EpochReport), ("end", None), ("error", text), or ("lost", text) if no slot is left.
        """
        claim = self.claims.get(sequence)
        if claim is None:
            return "lost", "the trial is over"
        claim.requested = max(claim.requested, position + 1)
        await self._announce()
        await self._until(
            lambda: len(claim.reports) > position or claim.outcome is not None or claim.over or self._hopeless
        )
        if not claim.over and len(claim.reports) > position:
            return "report", claim.reports[position]
        if claim.over:
            return "lost", "the trial is over"
        return claim.outcome or ("lost", self.groups[0].broken)

    async def release(self, trial_id: str) -> None:
        """Ends a trial's claim for good. Workers that still train it stop at the end of their epoch."""
        self.over.add(trial_id)
        for claim in [claim for claim in self.claims.values() if claim.trial_id == trial_id]:
            claim.over = True
            del self.claims[claim.sequence]
        await self._announce()

    # the driver's side

    async def watch(self, dead_nodes: Iterable[str]) -> list[Ended]:
        """Ends the lives of groups whose node is dead, or that have made no progress for too long; returns those lives.

        A dead node excuses every life with a worker on it, even one that ended before the news came.
        """
        dead, ended, now = set(dead_nodes), [], time.monotonic()
        for claim in self.claims.values():
            news = [life for life in claim.tries if dead & life.nodes and life.excuse is None]
            for past in news:
                past.excuse = "its node is lost"
            if news:
                claim.not_before = 0.0
        for slot, group in enumerate(self.groups):
            life = group.life
            if life is None:
                continue
            if lost := dead & life.nodes:
                life.excuse = why = f"node {min(lost)} is lost"
            elif now - life.progress > self.patience:
                why = f"no progress for {self.patience:g} seconds"
            else:
                continue
            ended.append(Ended(slot, life.placement, why))
            self._end_life(group, why)
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
        group = self.groups[slot]
        if group.life is not None:
            group.life.excuse = why if excused else None
            self._end_life(group, why)
            await self._announce()
        came_up, group.lives_before = group.lives > group.lives_before, group.lives
        return group.placement, came_up

    async def give_up(self, slot: int, why: str) -> None:
        """Marks a slot whose worker group cannot be launched."""
        self.groups[slot].broken = why
        self._end_life(self.groups[slot], why)
        await self._announce()

    async def close(self) -> None:
        """Sends the worker groups home, each at the end of the epoch that it is in."""
        self.closed = True
        for claim in self.claims.values():
            claim.over = True
        await self._announce()

    async def state(self) -> State:
        """A summary for the driver."""
        queue, up = self._queue(), tuple(slot for slot, group in enumerate(self.groups) if group.life is not None)
        postponed = next(
            (claim.postponed for claim in self.claims.values() if claim.postponed and claim.outcome is None), ""
        )
        lives = [group.life for group in self.groups if group.life is not None]
        claims = [life.claim for life in lives if life.claim is not None]
        positions = {claim.work.key: claim.position for claim in claims if claim.position is not None}
        return State(up, len(claims), len(queue), queue[0].why if queue else "", postponed, positions)

    # the workers' side

    async def attach(self, slot: int, placement: str | None = None, nodes: Iterable[str] = ()) -> int:
        """Begins a life of a worker group; returns its incarnation. The claim of the last life returns to the queue."""
        group = self.groups[slot]
        self._end_life(group, "its workers died")
        group.lives, group.placement = group.lives + 1, placement
        group.life = Life(group.lives, placement, frozenset(nodes))
        await self._announce()
        return group.lives

    async def next(self, slot: int, incarnation: int) -> Assignment | NoWork:
        """The first claim in the queue, for rank 0 of a slot; "ask again" after NEXT_WAIT seconds without one.

        "leave" if the slots close, or if this life has ended: its workers return, and give their CPUs back.
        """
        end = time.monotonic() + NEXT_WAIT
        while True:
            life = self._life(slot, incarnation)
            if self.closed or life is None:
                return "leave"
            if (claim := self._due()) is not None:
                if claim.attempts >= self.attempts:
                    said = f"; the last to speak said: {claim.said}" if claim.said else ""
                    claim.outcome = ("error", f"its workers died {self.attempts} times without a new epoch{said}")
                    await self._announce()
                    continue
                claim.slot, claim.begun, claim.why, claim.position = slot, True, "", None
                claim.tries.append(life)
                claim.taken = life.progress = time.monotonic()
                life.claim, life.faults = claim, {}
                return Assignment(claim.work, claim.sequence, claim.attempts, slot, incarnation)
            now = time.monotonic()
            if now >= end:
                return "ask again"
            look = min([end, *(claim.not_before for claim in self._queue())])
            await self._until(
                lambda: self.closed or self._life(slot, incarnation) is None or self._due() is not None,
                max(0.01, look - now),
            )

    async def beat(self, slot: int, incarnation: int, position: Position | None = None) -> None:
        """The workers have made progress, and are at a position of their trial."""
        life = self._life(slot, incarnation)
        if life is not None and life.progress < math.inf:
            life.progress = time.monotonic()
            if (claim := life.claim) is not None:
                claim.position = position
                if time.monotonic() - claim.taken > POSTPONE_WAIT:  # the start of a try proves nothing
                    claim.postponed = ""

    async def post(self, slot: int, incarnation: int, sequence: int, report: EpochReport) -> bool:
        """Takes an epoch's report; returns when the next epoch is requested (True) or the trial is over (False).

        So a trial that is stopped wastes no step. Epochs that the trial heard before a restart pass at once.
        """
        claim, life = self._claim(slot, incarnation, sequence), self._life(slot, incarnation)
        if claim is None or life is None:
            return False
        life.progress = time.monotonic()
        if claim.reports and report.epoch <= claim.reports[-1].epoch:
            return True
        claim.reports.append(report)
        claim.postponed = ""
        claim.tries = [life]  # the trial makes progress: only deaths in the same epoch count against it
        life.progress = math.inf
        await self._announce()
        await self._until(
            lambda: claim.requested > len(claim.reports) or self._claim(slot, incarnation, sequence) is not claim
        )
        if self._life(slot, incarnation) is life:
            life.progress = time.monotonic()  # also for a trial that is over: its workers have to acknowledge that
        return self._claim(slot, incarnation, sequence) is claim

    async def acknowledge(self, slot: int, incarnation: int, sequence: int, outcome: Outcome) -> None:
        """The workers are done with a trial, for good or for now."""
        life = self._life(slot, incarnation)
        if life is None or life.claim is None or life.claim.sequence != sequence:
            return
        claim, life.claim, life.progress = life.claim, None, math.inf
        _settle(claim, life, outcome)
        await self._announce()

    async def fault(
        self, slot: int, incarnation: int, rank: int, workers: int, blame: Blame, text: str
    ) -> Outcome | None:
        """Takes a rank's error; returns the outcome for all ranks. None: the group is broken and has to be restarted.

        There is an outcome if all ranks report and one of them knows the cause. If some do not report, because they are
        dead or hang in a sum that the failed rank never joins, the group is broken; a known cause counts all the same.
        """
        life = self._life(slot, incarnation)
        if life is None:
            return None
        faults = life.faults
        faults[rank] = (blame, text)
        life.progress = time.monotonic()  # the rank waits for the other ranks now
        if life.claim is not None:
            life.claim.said = text
        await self._announce()
        await self._until(lambda: len(faults) >= workers or self._life(slot, incarnation) is None, FAULT_WAIT)
        if self._life(slot, incarnation) is None:
            return None
        outcome = verdict(faults)
        if len(faults) >= workers and outcome is not None:
            return outcome
        if life.claim is not None and outcome is not None:
            _settle(life.claim, life, outcome)
            life.claim = None
        self._end_life(self.groups[slot], text)
        await self._announce()
        return None

    # within

    @property
    def _hopeless(self) -> bool:
        return all(group.broken is not None for group in self.groups)

    def _life(self, slot: int, incarnation: int) -> Life | None:
        """The present life of a slot, if it has that incarnation: no other may take or post."""
        life = self.groups[slot].life
        return life if life is not None and life.incarnation == incarnation else None

    def _claim(self, slot: int, incarnation: int, sequence: int) -> Claim | None:
        """The claim that a slot trains, if it is that incarnation and that claim, and the trial is not over."""
        life = self._life(slot, incarnation)
        claim = life.claim if life is not None else None
        return claim if claim is not None and claim.sequence == sequence and not claim.over else None

    def _queue(self) -> list[Claim]:
        """Claims that wait: those that have begun before those that have not, the oldest first."""
        return sorted(
            (claim for claim in self.claims.values() if claim.waits),
            key=lambda claim: (not claim.begun, claim.sequence),
        )

    def _due(self) -> Claim | None:
        """The first claim that may be started now."""
        return next((claim for claim in self._queue() if claim.not_before <= time.monotonic()), None)

    def _end_life(self, group: Group, why: str) -> None:
        """Fences the life of a group, and puts its claim back to the queue."""
        life, group.life = group.life, None
        claim = life.claim if life is not None else None
        if claim is not None and claim.outcome is None:
            claim.slot, claim.why = None, why
            claim.not_before = time.monotonic() + (NEWS_WAIT if claim.attempts >= self.attempts else 0)

    async def _announce(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def _until(self, condition: Callable[[], bool], timeout: float | None = None) -> None:
        async with self.changed:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.changed.wait_for(condition), timeout)


def _settle(claim: Claim, life: Life, outcome: Outcome) -> None:
    """The workers of a life are done with a claim."""
    claim.slot = None
    if outcome[0] != "postponed":
        claim.outcome = outcome
        return
    claim.why = claim.postponed = outcome[1] or ""
    claim.not_before = time.monotonic() + POSTPONE_WAIT
    claim.tries.remove(life)
