"""What the driver says of its slots, for `tuner status` and other readers of the run."""

import time
from collections.abc import Mapping

from tuner.fleet.claims import State
from tuner.runs.fleet_state import FleetSlot, FleetState
from tuner.runs.run import Run

NOTE_EVERY = 3.0  # seconds


class FleetNotes:
    """Writes the state of the slots into the run every few seconds, and sums up how long they worked.

    Args:
        run: of the search.
    """

    def __init__(self, run: Run):
        self._path = run.fleet_file
        before = FleetState.read(self._path)
        self._up, self._busy = (before.slot_seconds, before.busy_seconds) if before is not None else (0.0, 0.0)
        self._looked: float | None = None  # time on the monotonic clock of the last look
        self._written = -NOTE_EVERY

    def note(self, state: State, waiting: str, widths: Mapping[str, int], warnings: tuple[str, ...] = ()) -> None:
        """Takes a look at the slots.

        Args:
            state: of the switchboard.
            waiting: what trials wait for; empty where none does.
            widths: number of workers of each trial that runs, by its key.
            warnings: what a user should know; a line each.
        """
        now = time.monotonic()
        passed, self._looked = now - (self._looked or now), now
        self._up += passed * len(state.slots)
        # a trial has a position once its workers have made progress, and until its slots change
        self._busy += passed * sum(slot.trial in state.positions for slot in state.slots)
        if now - self._written < NOTE_EVERY:
            return
        self._written = now
        slots = tuple(FleetSlot(slot.slot, slot.node, slot.trial) for slot in state.slots)
        trained = {slot.trial for slot in state.slots}
        held = {key: width for key, width in widths.items() if key in trained}
        FleetState(time.time(), slots, held, waiting, self._up, self._busy, warnings).write(self._path)
