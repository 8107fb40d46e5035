"""What the switchboard keeps account of: the claims of trials, and the lives of the slots' worker groups."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from trainables.running.messages import Blame, EpochReport, Outcome, Position, Work

Message = tuple[Literal["report"], EpochReport] | tuple[Literal["end", "error", "postponed", "lost"], str | None]
"""What a trial hears: its next epoch, or how it ended; ("lost", text) if no slot is left to run it."""


@dataclass(eq=False)
class Claim:
    """A trial's claim to workers.

    Attributes:
        trial_id: of the trial that made it.
        sequence: number of the claim; later claims have larger ones.
        work: for the workers.
        reports: the trial's epochs, in order.
        requested: how many epochs the trial has asked for.
        tries: lives of worker groups that have trained it since its last new epoch.
        slot: index of the slot that trains it now; None while it waits.
        begun: whether any group has ever trained it.
        outcome: what the trial hears after its last epoch.
        over: whether the trial has released the claim.
        why: why it went back to the queue.
        said: the last error that a rank reported.
        postponed: what keeps the trial from going on for now; empty once it makes progress again.
        taken: time on the monotonic clock when a group last took it.
        not_before: time on the monotonic clock before which no group takes it.
        position: where the trial is, as its workers last said.
    """

    trial_id: str
    sequence: int
    work: Work
    reports: list[EpochReport] = field(default_factory=list)
    requested: int = 0
    tries: list["Life"] = field(default_factory=list)
    slot: int | None = None
    begun: bool = False
    outcome: Outcome | None = None
    over: bool = False
    why: str = ""
    said: str = ""
    postponed: str = ""
    taken: float = 0.0
    not_before: float = 0.0
    position: Position | None = None

    @property
    def waits(self) -> bool:
        """Whether it is in the queue."""
        return self.slot is None and self.outcome is None and not self.over

    @property
    def attempts(self) -> int:
        """Starts since the last new epoch for whose failure there is no excuse."""
        return sum(life.excuse is None for life in self.tries)


@dataclass(eq=False)
class Life:
    """One life of a slot's worker group: from the moment when its workers are up until they are gone or fenced.

    Attributes:
        incarnation: number of the life, counted from 1 for each slot.
        placement: id of the placement group that holds its resources.
        nodes: ids of the nodes that its workers run on.
        claim: the claim that its workers train, from the moment when they take it until they acknowledge its end.
        progress: time on the monotonic clock of the last progress in that claim; infinite while they wait for the
            trial.
        faults: errors that ranks have reported for that claim, by rank.
        excuse: what ended the life, if that was not the fault of the trial that it trained.
    """

    incarnation: int
    placement: str | None = None
    nodes: frozenset[str] = frozenset()
    claim: Claim | None = None
    progress: float = math.inf
    faults: dict[int, tuple[Blame, str]] = field(default_factory=dict)
    excuse: str | None = None


@dataclass(eq=False)
class Group:
    """The worker group of a slot, over all of its lives.

    Attributes:
        lives: number of lives so far.
        lives_before: number of lives when `down` was last called.
        life: the present life; None while no workers are up.
        placement: id of the placement group of the last life.
        broken: why the slot was given up.
    """

    lives: int = 0
    lives_before: int = 0
    life: Life | None = None
    placement: str | None = None
    broken: str | None = None


@dataclass(frozen=True)
class Ended:
    """A life that the switchboard has ended: its slot, the placement group to be removed, and why."""

    slot: int
    placement: str | None
    why: str


@dataclass(frozen=True)
class State:
    """A summary of the switchboard.

    Attributes:
        up: slots whose workers are up.
        busy: how many of them train a trial.
        waiting: how many claims are in the queue.
        why: why the first of them went back to the queue; empty if it has not begun.
        postponed: what of the machine, its disc or its network keeps trials from going on; empty if nothing does.
        positions: where the trials are that workers train, by the key of the trial.
    """

    up: tuple[int, ...]
    busy: int
    waiting: int
    why: str
    postponed: str = ""
    positions: Mapping[str, Position] = field(default_factory=dict)


def verdict(faults: dict[int, tuple[Blame, str]]) -> Outcome | None:
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
