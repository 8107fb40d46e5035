"""What a simulation returns: what happened in it, and how its slots were used."""

from dataclasses import dataclass, field

from tuner.search import events


@dataclass(frozen=True)
class Started:
    """A segment of a trial that was started, in a log: without the trial's configuration, which is large.

    Attributes:
        key: of the trial.
        segment: number of the segment, from 1.
        width: its workers.
    """

    key: str
    segment: int
    width: int


@dataclass(frozen=True)
class Happening:
    """What the core heard and what it decided.

    Attributes:
        at: virtual seconds since the search began.
        slot: number of the slot that the event concerns; -1 where it concerns none.
        event: the event that the core heard.
        decision: the decision of the core; None where the event asks for none.
    """

    at: float
    slot: int
    event: events.Event
    decision: events.Decision | Started | None


@dataclass
class Simulation:
    """What a search would have done.

    Attributes:
        slots: how many slots there were at most.
        log: what happened, in order. Requests for work that were answered with Wait or Finish are left out, and looks
            at the slots that changed nothing.
        seconds: virtual time until the last event.
        busy: training seconds of each slot.
        available: seconds for which all slots were there, summed.
        refused: number of look-ups that the curves refused.
        ended: the reason for each trial that ended at a refusal or at a recorded failure, by key.
    """

    slots: int = 0
    log: list[Happening] = field(default_factory=list)
    seconds: float = 0.0
    busy: list[float] = field(default_factory=list)
    available: float = 0.0
    refused: int = 0
    ended: dict[str, str] = field(default_factory=dict)

    @property
    def utilisation(self) -> float:
        """Share of the slots' time in which they trained."""
        return sum(self.busy) / self.available if self.available else 0.0
