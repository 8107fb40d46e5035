"""What the switchboard keeps account of: the claims of trials, the lives of the slots' worker groups, and which lives
train which claim.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from trainables.running.messages import Blame, EpochReport, Outcome, Position, Work
from tuner.search.allocation import fitting

Message = (
    tuple[Literal["report"], EpochReport] | tuple[Literal["end", "error", "left", "postponed", "lost"], str | None]
)
"""What a trial hears: its next epoch, or how it ended; ("lost", text) if no slot is left to run it."""


@dataclass(eq=False)
class Claim:
    """A trial's claim to workers.

    Attributes:
        trial_id: of the trial that made it.
        sequence: number of the claim; later claims have larger ones.
        work: for the workers.
        counts: the numbers of slots that it may hold, ascending from 1. It is to hold the last one; while there are
            fewer slots, it holds the largest that they are enough for.
        reports: the trial's epochs, in order.
        requested: how many epochs the trial has asked for.
        generation: the slots that train it now; None while it waits.
        tries: generations that have trained it since its last new epoch.
        begun: whether any slot has ever trained it.
        outcome: what the trial hears after its last epoch.
        over: whether the trial has released the claim.
        why: why it went back to the queue.
        said: the last error that a rank reported.
        postponed: what keeps the trial from going on for now; empty once it makes progress again.
        not_before: time on the monotonic clock before which no slot takes it.
        keeps: lives that trained it last, and are expected to ask for work at once.
        keeps_until: time on the monotonic clock until which it waits for them.
        left_after: how many epochs it had when it was left in order; -1 where it was not.
        position: where the trial is, as its workers last said.
    """

    trial_id: str
    sequence: int
    work: Work
    counts: tuple[int, ...] = (1,)
    reports: list[EpochReport] = field(default_factory=list)
    requested: int = 0
    generation: "Generation | None" = None
    tries: list["Generation"] = field(default_factory=list)
    begun: bool = False
    outcome: Outcome | None = None
    over: bool = False
    why: str = ""
    said: str = ""
    postponed: str = ""
    not_before: float = 0.0
    keeps: tuple["Life", ...] = ()
    keeps_until: float = 0.0
    left_after: int = -1
    position: Position | None = None

    def count(self, slots: int) -> int:
        """How many of so many slots it may hold; at least 1."""
        return fitting(self.counts, max(1, slots))

    @property
    def waits(self) -> bool:
        """Whether it is in the queue."""
        return self.generation is None and self.outcome is None and not self.over

    @property
    def due_at(self) -> float:
        """Time on the monotonic clock from which slots may take it.

        Infinite while a trial that was left after an epoch has not asked for another, since it may be about to end.
        """
        if self.requested <= self.left_after:
            return math.inf
        gathered = all(life.gone or life.retiring or life.asks or life.generation is not None for life in self.keeps)
        return self.not_before if gathered else max(self.not_before, self.keeps_until)

    def leave(self, why: str) -> None:
        """Asks its workers to leave it at the next step."""
        if self.generation is not None:
            self.generation.leave(why)

    @property
    def attempts(self) -> int:
        """Starts since the last new epoch for whose failure there is no excuse."""
        return sum(generation.excuse is None for generation in self.tries)


@dataclass(eq=False)
class Generation:
    """The slots that train a claim together, from the moment when they are chosen until they are done with it or gone.

    Attributes:
        number: later ones have larger numbers.
        claim: that they train.
        lives: of the slots, in the order of their ranks. The first one leads.
        present: those of them that are neither done with it nor gone.
        taken: time on the monotonic clock at which it was made.
        leaving: why it is to be left at the next step; empty where it is not.
        broken: why one of its lives is gone; empty where none is.
        broken_at: time on the monotonic clock at which that was known; infinite where none is.
        faults: errors that ranks have reported, by rank.
        settled: whether it is known how these errors end it.
        outcome: how they end it for the ranks that reported; None where the worker groups have to be restarted.
        excuse: what ended it, if that was not the fault of the trial.
    """

    number: int
    claim: Claim
    lives: tuple["Life", ...]
    present: set["Life"]
    taken: float = field(default_factory=time.monotonic)
    leaving: str = ""
    broken: str = ""
    broken_at: float = math.inf
    faults: dict[int, tuple[Blame, str]] = field(default_factory=dict)
    settled: bool = False
    outcome: Outcome | None = None
    excuse: str | None = None

    def reported(self, workers: int) -> list["Life"]:
        """Those of the present lives all of whose workers have reported an error.

        Args:
            workers: of the generation.
        """
        each = workers // len(self.lives)
        return [
            life
            for place, life in enumerate(self.lives)
            if life in self.present and all(rank in self.faults for rank in range(place * each, (place + 1) * each))
        ]

    def leave(self, why: str) -> None:
        """Asks its workers to leave the trial at the next step."""
        self.leaving = self.leaving or why

    def moved(self) -> None:
        """Notes progress of all lives that are present."""
        for life in self.present:
            life.moved()

    def broke(self, why: str) -> None:
        """Notes that one of its lives is gone."""
        self.broken, self.broken_at = self.broken or why, min(self.broken_at, time.monotonic())

    @property
    def is_current(self) -> bool:
        """Whether it trains its claim, and the trial is not over."""
        return self.claim.generation is self and not self.claim.over


@dataclass(eq=False)
class Life:
    """One life of a slot's worker group: from the moment when its workers are up until they are gone or fenced.

    Attributes:
        slot: index of the slot.
        incarnation: number of the life, counted from 1 over all slots: a slot may have the index of one that has ended.
        placement: id of the placement group that holds its resources.
        nodes: ids of the nodes that its workers run on, in the order of their ranks.
        store: host and port of the store of its first worker.
        asks: whether its workers wait for work.
        generation: in which they train, from the moment when it is made until they acknowledge its end.
        told: whether they have been told of it.
        retiring: why they are to go home once they have left their trial; empty where they are not.
        progress: time on the monotonic clock of their last progress; infinite while they wait for the trial.
        stacks_at: time on the monotonic clock at which they were asked for their stacks; infinite where they were not.
        excuse: what ended the life, if that was not the fault of the trial that it trained.
        gone: whether it has ended.
    """

    slot: int
    incarnation: int
    placement: str | None = None
    nodes: tuple[str, ...] = ()
    store: tuple[str, int] = ("", 0)
    asks: bool = False
    generation: Generation | None = None
    told: bool = False
    retiring: str = ""
    progress: float = math.inf
    stacks_at: float = math.inf
    excuse: str | None = None
    gone: bool = False

    @property
    def is_free(self) -> bool:
        """Whether it could take part in a trial at once."""
        return self.asks and self.generation is None and not self.retiring

    @property
    def node(self) -> str:
        """Id of the node of its first worker."""
        return self.nodes[0] if self.nodes else ""

    def moved(self) -> None:
        """Notes progress."""
        self.progress, self.stacks_at = time.monotonic(), math.inf

    def retire(self, why: str) -> None:
        """Asks its workers to go home once they have left their trial, which they are asked to leave."""
        self.retiring = self.retiring or why
        if self.generation is not None:
            self.generation.leave(why)


@dataclass(eq=False)
class Group:
    """The worker group of a slot, over all of its lives.

    Attributes:
        came_up: whether its workers were up since `down` was last called.
        life: the present life; None while no workers are up.
        placement: id of the placement group of the last life.
        retired: why the slot is to end, if its workers were not up when that was said; else empty.
        broken: why the slot is given up; None where it is not.
    """

    came_up: bool = False
    life: Life | None = None
    placement: str | None = None
    retired: str = ""
    broken: str | None = None


@dataclass(frozen=True)
class Ended:
    """A life that the switchboard has ended: its slot, the placement group to be removed, and why."""

    slot: int
    placement: str | None
    why: str


@dataclass(frozen=True)
class SlotState:
    """A slot whose workers are up.

    Attributes:
        slot: its index.
        node: id of the node of its first worker.
        nodes: ids of the nodes of all its workers.
        trial: key of the trial that it trains; None where it trains none.
        retiring: whether its workers go home once they have left that trial.
        over: whether that trial is over, and its workers have not left it yet.
    """

    slot: int
    node: str
    nodes: tuple[str, ...]
    trial: str | None
    retiring: bool
    over: bool = False


@dataclass(frozen=True)
class State:
    """A summary of the switchboard.

    Attributes:
        slots: whose workers are up.
        busy: how many trials are trained.
        waiting: how many claims are in the queue.
        why: why the first of them went back to the queue; empty if it has not begun.
        postponed: what of the machine, its disc or its network keeps trials from going on; empty if nothing does.
        positions: where the trials are that workers train, by the key of the trial.
    """

    slots: tuple[SlotState, ...]
    busy: int
    waiting: int
    why: str
    postponed: str = ""
    positions: Mapping[str, Position] = field(default_factory=dict)

    @property
    def up(self) -> tuple[int, ...]:
        """Indices of the slots whose workers are up."""
        return tuple(slot.slot for slot in self.slots)


def verdict(faults: Mapping[int, tuple[Blame, str]]) -> Outcome | None:
    """The outcome of the ranks' reports: that of the first rank that knows a cause; surroundings before the trial."""
    causes: tuple[tuple[Blame, Literal["postponed", "error"]], ...] = (
        ("surroundings", "postponed"),
        ("trial", "error"),
    )
    for blame, outcome in causes:
        for _, (blamed, text) in sorted(faults.items()):
            if blamed == blame:
                return outcome, text
    return None
