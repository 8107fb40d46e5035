"""What the switchboard keeps account of: trials' claims, and slots' worker groups with their lives."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Blame = Literal["trial", "link", "surroundings"]
"""Whose fault a rank's error is. "trial": the trial's own. "link": the link to another rank broke, which says nothing of
the trial. "surroundings": the machine, its disc or its network; the trial cannot go on now, but may later."""

Outcome = tuple[Literal["end", "error", "postponed"], str | None]
"""How the workers are done with a trial. ("end", None): it trained to its end. ("error", text): it failed by its own
fault. ("postponed", text): it cannot go on now; it goes back to the queue, is tried again after POSTPONE_WAIT seconds, and
this start counts as no attempt."""

Position = tuple[str, int, int | None]
"""Where a trial is: what is being done, how many steps of it are done, and of how many; None where nobody knows."""

Message = tuple[Literal["metrics", "end", "error", "lost"], Any]


@dataclass(eq=False)
class Life:
    """One life of a worker group.

    Attributes:
        incarnation: how many lives the slot has had, this one included.
        placement: id of the placement group that holds its resources.
        nodes: ids of the nodes that its workers sit on.
        excuse: what ended it, where that is no fault of the trial that it worked on.
    """

    incarnation: int
    placement: str | None = None
    nodes: frozenset[str] = frozenset()
    excuse: str | None = None


@dataclass(eq=False)
class Claim:
    """A trial's claim to workers.

    Attributes:
        trial_id: whose it is.
        sequence: number of the claim; later claims have larger ones.
        work: for the workers.
        posted: metrics of its epochs, in order.
        wanted: how many epochs the trial has asked for.
        tries: lives of groups that have worked on it since its last new epoch.
        slot: which group works on it now; None while it waits.
        begun: whether a group has ever worked on it.
        outcome: what its trial hears after the last epoch.
        over: whether the trial has released it.
        why: the reason why it went back to the queue.
        said: what a rank said last of an error.
        postponed: what keeps the trial from going on for now; empty again when it gets on.
        taken: time, by the monotonic clock, when a group took it last.
        not_before: time, by the monotonic clock, before which no group takes it.
        position: where it is, as its workers said last.
    """

    trial_id: str
    sequence: int
    work: dict[str, Any]
    posted: list[dict[str, Any]] = field(default_factory=list)
    wanted: int = 0
    tries: list[Life] = field(default_factory=list)
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
        return self.slot is None and self.outcome is None and not self.over

    @property
    def attempts(self) -> int:
        """Starts without a new epoch that nothing but the trial may explain."""
        return sum(life.excuse is None for life in self.tries)


@dataclass(eq=False)
class Group:
    """The worker group of a slot.

    Attributes:
        lives: how many it has had.
        lives_before: lives when `down` was last called.
        life: the present one; None while no workers are up.
        placement: id of the placement group of the last one.
        claim: what its workers are on, from the moment when they took it until they acknowledge it.
        progress: time, by the monotonic clock, of the last progress in that; infinite while they wait for the trial.
        faults: what its ranks have reported, by rank.
        broken: why it is given up.
    """

    lives: int = 0
    lives_before: int = 0
    life: Life | None = None
    placement: str | None = None
    claim: Claim | None = None
    progress: float = math.inf
    faults: dict[int, tuple[Blame, str]] = field(default_factory=dict)
    broken: str | None = None


@dataclass(frozen=True)
class Ended:
    """A life that the switchboard has ended: its slot, the placement group to be removed, and why."""

    slot: int
    placement: str | None
    why: str


@dataclass(frozen=True)
class State:
    """What is going on.

    Attributes:
        up: slots whose workers are up.
        busy: how many of them work on a trial.
        waiting: how many claims are in the queue.
        why: why the first of them is in the queue again; empty where it has not begun.
        postponed: what keeps trials from going on for now, of the machine, its disc or its network; empty where nothing does.
        positions: where the trials are that workers are on, by the key in their work.
    """

    up: tuple[int, ...]
    busy: int
    waiting: int
    why: str
    postponed: str = ""
    positions: Mapping[str, Position] = field(default_factory=dict)


def verdict(faults: dict[int, tuple[Blame, str]]) -> Outcome | None:
    """What the ranks' reports come to: the first rank that knows a cause counts; the surroundings before the trial."""
    causes: tuple[tuple[Blame, Literal["postponed", "error"]], ...] = (
        ("surroundings", "postponed"),
        ("trial", "error"),
    )
    for blame, outcome in causes:
        for _, (blamed, text) in sorted(faults.items()):
            if blamed == blame:
                return outcome, text
    return None
