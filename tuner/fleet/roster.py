"""Who trains what: the slots, the claims, and how slots are given to claims.

It is synchronous; `Switchboard` speaks for it.
"""

import math
import time
import uuid
from collections.abc import Sequence, Set

from trainables.running.messages import Assignment, Outcome, Wanted, Work
from tuner.fleet.claims import Claim, Ended, Generation, Group, Life, SlotState, State, verdict
from tuner.search.allocation import choose

HANG_WAIT = 4.0  # seconds for workers to notice that their generation has lost a member
STACKS_WAIT = 3.0  # seconds for workers without progress to write their stacks
KEEP_WAIT = 1.0  # seconds for the slots of a generation to ask for work after its end
POSTPONE_WAIT = 10.0  # seconds until a postponed trial is tried again
NOBODY = 0  # an incarnation that no life has
NEWS_WAIT = 30.0  # seconds in which news of a lost node may still excuse the last death of a trial's workers


class Roster:
    """The slots and the claims.

    Args:
        attempts: how often a trial may be started without a new epoch.
    """

    def __init__(self, attempts: int):
        self.groups: dict[int, Group] = {}  # of the slots that there are, by their indices
        self.claims: dict[int, Claim] = {}
        self.attempts = attempts
        self.session = uuid.uuid4().hex[:12]
        self.counts: dict[str, tuple[int, ...]] = {}  # numbers of slots that trials may hold, by key
        self.closed = False  # nothing is given any more
        self.held = ""  # why nothing is given for now
        self._sequence = self._generations = self._lives = 0

    def claim(self, trial_id: str, work: Work) -> Claim:
        """A trial's claim, a new one where it has none."""
        for claim in self.claims.values():
            if claim.trial_id == trial_id:
                return claim
        self._sequence += 1
        claim = self.claims[self._sequence] = Claim(trial_id, self._sequence, work, self.counts.get(work.key, (1,)))
        return claim

    @property
    def hopeless(self) -> str | None:
        """Why no slot is left; None while there is one, or may come one."""
        reasons = [group.broken for group in self.groups.values()]
        return reasons[0] if reasons and all(reasons) else None

    def attach(self, slot: int, placement: str | None, nodes: Sequence[str], store: tuple[str, int]) -> int:
        """Begins a life of a slot's worker group; returns its incarnation, or NOBODY where there is no such slot."""
        group = self.groups.get(slot)
        if group is None:
            return NOBODY
        self.end_life(group, "its workers were restarted")
        self._lives += 1
        group.came_up, group.broken, group.placement = True, None, placement
        group.life = Life(slot, self._lives, placement, tuple(nodes), store, retiring=group.retired)
        return self._lives

    def life(self, slot: int, incarnation: int) -> Life | None:
        """The present life of a slot, if it has that incarnation: no other may take or post."""
        group = self.groups.get(slot)
        life = group.life if group is not None else None
        return life if life is not None and life.incarnation == incarnation else None

    def training(self, slot: int, incarnation: int, generation: int) -> Generation | None:
        """The generation that a slot trains in, if it is that one and that incarnation."""
        life = self.life(slot, incarnation)
        run = life.generation if life is not None else None
        return run if run is not None and run.number == generation else None

    def asked(self, slot: int, incarnation: int, generation: int, stacks: bool) -> Wanted:
        """What a worker is asked in the middle of a trial; "ask again" if that is nothing.

        Args:
            slot: its slot.
            incarnation: of the slot.
            generation: that it trains in.
            stacks: whether it has already written its stacks.
        """
        run, life = self.training(slot, incarnation, generation), self.life(slot, incarnation)
        if run is None or life is None or run.broken:
            return "gone"
        if life.stacks_at < math.inf and not stacks:
            return "stacks"
        return "leave" if run.leaving else "ask again"

    def assignment(self, life: Life, run: Generation) -> Assignment:
        """What the workers of a life are told of a generation that they belong to."""
        return Assignment(
            work=run.claim.work,
            generation=run.number,
            owner=f"{self.session}-{run.number}",
            attempt=run.claim.attempts,
            slot=life.slot,
            incarnation=life.incarnation,
            place=run.lives.index(life),
            members=len(run.lives),
            store=run.lives[0].store,
        )

    def queue(self) -> list[Claim]:
        """Claims that wait: those that have begun before those that have not, the oldest first."""
        return sorted(
            (claim for claim in self.claims.values() if claim.waits),
            key=lambda claim: (not claim.begun, claim.sequence),
        )

    def arrange(self) -> None:
        """Gives free slots to claims, and has trials left that are to hold another number of slots.

        Every claim that is due gets a slot before any gets a second one. None gets a number of slots that it may not
        hold: slots that are too few for the next larger number stay free.
        """
        if self.closed or self.held:
            return
        now = time.monotonic()
        free = [group.life for group in self.groups.values() if group.life is not None and group.life.is_free]
        due = [claim for claim in self.queue() if claim.due_at <= now and not self._exhausted(claim)]
        counts = [1] * min(len(free), len(due))
        for place, claim in enumerate(due[: len(counts)]):
            counts[place] = claim.count(1 + len(free) - sum(counts))
        for claim, count in zip(due, counts, strict=False):
            lives = {life.slot: life for life in free}
            kept = {life.slot: life.node for life in claim.keeps if lives.get(life.slot) is life}
            chosen = choose({slot: life.node for slot, life in lives.items() if slot not in kept}, kept, count)
            self._issue(claim, [lives[slot] for slot in chosen])
            free = [life for life in free if life.slot not in chosen]
        spare = len(free) if len(due) <= len(counts) else 0
        for claim in self.claims.values():
            if (run := claim.generation) is None or run.leaving or run.broken:
                continue
            held = len(run.lives)
            more = claim.count(held + spare) - held
            if claim.counts[-1] < held:
                waits = len(due) > len(counts)
                run.leaving = "another trial needs its slots" if waits else "it goes on with fewer slots"
            elif more > 0:
                run.leaving, spare = "a slot is free for it", spare - more

    def _exhausted(self, claim: Claim) -> bool:
        """Ends a claim whose workers have died too often."""
        if claim.attempts < self.attempts:
            return False
        said = f"; the last to speak said: {claim.said}" if claim.said else ""
        claim.outcome = ("error", f"its workers died {self.attempts} times without a new epoch{said}")
        return True

    def _issue(self, claim: Claim, lives: Sequence[Life]) -> None:
        """Makes the next generation of a claim."""
        self._generations += 1
        run = claim.generation = Generation(self._generations, claim, tuple(lives), set(lives))
        claim.begun, claim.why, claim.position, claim.keeps = True, "", None, ()
        claim.tries.append(run)
        for life in lives:
            life.generation, life.told, life.asks = run, False, False
            life.moved()

    def settle(self, run: Generation, outcome: Outcome) -> None:
        """A claim's present generation has ended: the trial is over, or it waits for the next one."""
        claim = run.claim
        claim.generation, now = None, time.monotonic()
        claim.keeps = tuple(life for life in run.lives if not life.gone and not life.retiring)
        claim.keeps_until, claim.left_after = now + KEEP_WAIT, -1
        if outcome[0] in ("end", "error"):
            claim.outcome = outcome
        elif outcome[0] == "postponed":
            claim.why = claim.postponed = outcome[1] or ""
            claim.not_before = now + POSTPONE_WAIT
            claim.tries.remove(run)
        elif run.broken:
            claim.why = run.broken
            claim.not_before = now + (NEWS_WAIT if claim.attempts >= self.attempts else 0)
        else:  # left in order
            claim.why, claim.left_after = run.leaving, len(claim.reports)
            claim.tries.remove(run)

    def settle_faults(self, run: Generation, workers: int) -> None:
        """Decides how the errors of its ranks end a generation."""
        run.settled = True
        outcome, reported = verdict(run.faults), run.reported(workers)
        silent = [life for life in run.present if life not in reported]
        if outcome is None and reported and (silent or run.broken):
            run.broke("a slot does not answer")
            outcome = "left", run.broken
        run.outcome = outcome
        if outcome is not None and run.claim.generation is run:
            self.settle(run, outcome)
        for life in silent if outcome is not None else [*run.present]:
            self.end_life(self.groups[life.slot], next(reversed(run.faults.values()))[1])

    def end_life(self, group: Group, why: str) -> None:
        """Fences the life of a group. Its claim goes back to the queue once no other slot trains it."""
        life, group.life = group.life, None
        if life is None:
            return
        life.gone, run, life.generation = True, life.generation, None
        if run is None:
            return
        run.present.discard(life)
        run.excuse = run.excuse or life.excuse
        run.broke(why)
        if run.claim.generation is not run:
            return
        if not run.present:
            self.settle(run, ("left", why))

    def watch(self, dead: Set[str], draining: Set[str], patience: float) -> list[Ended]:
        """Ends the lives that are lost or stuck, and returns them; retires those on nodes that are about to go.

        Args:
            dead: nodes that have left the cluster.
            draining: nodes that are about to leave it.
            patience: seconds without progress after which workers count as stuck.
        """
        self._excuse(dead)
        ended, now = list[Ended](), time.monotonic()
        for slot, group in self.groups.items():
            life = group.life
            if life is None:
                continue
            run = life.generation
            if going := draining & {*life.nodes}:
                life.retire(f"node {min(going)} is about to go")
            if lost := dead & {*life.nodes}:
                life.excuse = why = f"node {min(lost)} is lost"
            elif now - life.progress > patience:
                life.stacks_at = min(life.stacks_at, now)
                if now - life.stacks_at < STACKS_WAIT:
                    continue
                why = f"no progress for {patience:g} seconds"
            elif run is not None and now - run.broken_at > HANG_WAIT:
                why = run.broken
            else:
                continue
            ended.append(Ended(slot, life.placement, why))
            self.end_life(group, why)
        return ended

    def _excuse(self, dead: Set[str]) -> None:
        """Excuses the failures of all generations that had a worker on a dead node."""
        for claim in self.claims.values():
            past = [
                run for run in claim.tries if run.excuse is None and any(dead & {*life.nodes} for life in run.lives)
            ]
            for generation in past:
                generation.excuse = "its node is lost"
            if past:
                claim.not_before = 0.0

    def state(self) -> State:
        """A summary."""
        queue = self.queue()
        postponed = next(
            (claim.postponed for claim in self.claims.values() if claim.postponed and claim.outcome is None), ""
        )
        lives = [group.life for group in self.groups.values() if group.life is not None]
        slots = tuple(
            SlotState(
                life.slot,
                life.node,
                life.nodes,
                life.generation.claim.work.key if life.generation is not None else None,
                bool(life.retiring),
                life.generation is not None and life.generation.claim.over,
            )
            for life in lives
        )
        trained = {life.generation.claim.sequence: life.generation.claim for life in lives if life.generation}
        positions = {claim.work.key: claim.position for claim in trained.values() if claim.position is not None}
        why = queue[0].why if queue else ""
        return State(slots, len(trained), len(queue), why, self.held or postponed, positions)
