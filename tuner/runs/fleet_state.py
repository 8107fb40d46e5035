"""What the driver of a search says of its slots, every few seconds, for `tuner status` and other readers."""

import contextlib
import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tuner.runs.files import write_atomically

STALE = 30.0  # seconds after which what a driver has said does not hold any more


@dataclass(frozen=True)
class FleetSlot:
    """A slot whose workers are up.

    Attributes:
        slot: index of the slot.
        node: id of the node of its first worker.
        trial: key of the trial that it trains; None where it is idle.
    """

    slot: int
    node: str
    trial: str | None


@dataclass(frozen=True)
class FleetState:
    """The slots of a search at a moment.

    Attributes:
        at: the moment, in seconds since 1970.
        slots: those that are up.
        widths: number of workers of each trial that is being trained, by its key.
        waiting: what trials wait for that are not being trained; empty where none waits.
        slot_seconds: how long slots have been up, summed over all slots and over all sessions of the search.
        busy_seconds: how much of that they were busy with a trial, from its first progress there until it left them:
            steps and evaluations, and also checkpoints that are written and waits for the driver's answer.
        warnings: what a user should know, such as a disc that has little room; a line each.
    """

    at: float
    slots: tuple[FleetSlot, ...] = ()
    widths: Mapping[str, int] = field(default_factory=dict)
    waiting: str = ""
    slot_seconds: float = 0.0
    busy_seconds: float = 0.0
    warnings: tuple[str, ...] = ()

    @property
    def nodes(self) -> int:
        """On how many nodes there are slots."""
        return len({slot.node for slot in self.slots})

    @property
    def utilisation(self) -> float | None:
        """Share of the slots' time that they were busy with a trial; None where no slot has been up."""
        return self.busy_seconds / self.slot_seconds if self.slot_seconds else None

    @property
    def stale(self) -> bool:
        """Whether it is too old to describe the slots of now."""
        return abs(time.time() - self.at) > STALE

    def write(self, path: Path) -> None:
        """Writes it for readers; on a full disc they go on with the last one."""
        with contextlib.suppress(OSError):
            write_atomically(path, json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> "FleetState | None":
        """The state that was written last, however old it is; None where there is none that can be read."""
        try:
            content = json.loads(path.read_text())
            slots = tuple(FleetSlot(**slot) for slot in content.pop("slots"))
            state = cls(slots=slots, warnings=tuple(content.pop("warnings")), **content)
            whole = all(map(math.isfinite, (state.at, state.slot_seconds, state.busy_seconds)))
            return state if whole and isinstance(state.widths, Mapping) else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
