"""What the core of a search hears, and what it decides."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tuner.search.study import Metrics, Proposal

# events


@dataclass(frozen=True)
class WorkWanted:
    """Whoever executes could start a trial.

    Attributes:
        up: slots whose workers are up.
        room: the most trials at once that whoever executes can have; the core keeps to what the user asked for anyway.
    """

    up: int
    room: int


@dataclass(frozen=True)
class SlotsSeen:
    """The slots as they are now. It is told every second, and after each change.

    Attributes:
        at: seconds on the clock of whoever executes; virtual seconds in a simulation.
        slots: number of slots that are up and may be used, by node (that of the slot's first worker).
        held: how many of them each trial holds, by the trial's key, then by node.
    """

    at: float
    slots: Mapping[str, int]
    held: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class SegmentBegan:
    """Workers have taken a trial. `at` is the time, in seconds since 1970 (in virtual seconds in a simulation)."""

    key: str
    at: float


@dataclass(frozen=True)
class EpochEnded:
    """An epoch of a trial with its metrics. Epochs of earlier segments are told again, and change nothing."""

    key: str
    metrics: Metrics


@dataclass(frozen=True)
class TrialEnded:
    """Workers are done with a trial for good.

    Attributes:
        key: of the trial.
        metrics: of its last epoch; empty where there was none.
        error: why it failed; None where it did not.
        details: what else is to be kept of it, such as its slot.
    """

    key: str
    metrics: Metrics
    error: str | None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SegmentLost:
    """A segment ended through no fault of its trial, such as by the death of the actor that spoke for it."""

    key: str
    why: str


@dataclass(frozen=True)
class PauseWanted:
    """A trial is to be paused: after its next epoch, or at once if it waits for a start.

    It goes on when its promotion is wanted, when the search is resumed, or when nothing else is left to do.
    """

    key: str


@dataclass(frozen=True)
class PromotionWanted:
    """A paused trial is to go on."""

    key: str


@dataclass(frozen=True)
class StopWanted:
    """A trial is to be stopped now. Its last metrics count."""

    key: str


@dataclass(frozen=True)
class EndWanted:
    """The search is to end now: nothing more is proposed, and every trial that has not ended is stopped."""


Event = (
    WorkWanted
    | SlotsSeen
    | SegmentBegan
    | EpochEnded
    | TrialEnded
    | SegmentLost
    | PauseWanted
    | PromotionWanted
    | StopWanted
    | EndWanted
)

# decisions


@dataclass(frozen=True)
class Start:
    """Start a segment of a trial: on `width` workers, from its newest checkpoint where it has one.

    A trial starts on the smallest number of workers.
    """

    proposal: Proposal
    segment: int
    width: int


@dataclass(frozen=True)
class Continue:
    """Train the next epoch."""

    key: str


@dataclass(frozen=True)
class Stop:
    """End the trial here. Its last metrics count."""

    key: str


@dataclass(frozen=True)
class Pause:
    """End the segment. The trial waits for its promotion."""

    key: str


@dataclass(frozen=True)
class Allot:
    """Have these trials go on with another number of workers, from their next step on. Others keep what they have.

    Attributes:
        widths: number of workers by key of the trial.
    """

    widths: Mapping[str, int]


@dataclass(frozen=True)
class StopNow:
    """End these running trials without waiting for an epoch, and tell `TrialEnded` of each with its last metrics."""

    keys: tuple[str, ...]


@dataclass(frozen=True)
class Wait:
    """Nothing can be started now."""


@dataclass(frozen=True)
class Finish:
    """Nothing will be started any more.

    Attributes:
        alike: keys of trials that failed alike, where that is why.
    """

    alike: tuple[str, ...] = ()


Decision = Start | Continue | Stop | Pause | Allot | StopNow | Wait | Finish
