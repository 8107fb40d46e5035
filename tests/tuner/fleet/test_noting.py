"""What the driver says of its slots, for readers of the run. No Ray."""

import time
from pathlib import Path

import pytest

from tuner.fleet import noting
from tuner.fleet.claims import SlotState, State
from tuner.runs.fleet_state import FleetState
from tuner.runs.run import Run

UP = (SlotState(0, "x", ("x",), "0000", False), SlotState(1, "y", ("y",), None, False))


def state(*slots: SlotState) -> State:
    return State(slots=slots, busy=1, waiting=0, why="", positions={"0000": ("steps of epoch 1", 3, 40)})


def test_readers_see_slots_widths_and_what_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, now = Run.create(tmp_path / "run", "search", {}, 0), 100.0
    run.hold()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    notes = noting.FleetNotes(run)
    notes.note(state(*UP), "", {"0000": 2, "0001": 2})
    now += 1
    notes.note(state(*UP), "no room", {"0000": 2})
    seen = FleetState.read(run.fleet_file)
    assert seen is not None
    assert [(slot.slot, slot.node, slot.trial) for slot in seen.slots] == [(0, "x", "0000"), (1, "y", None)]
    assert seen.widths == {"0000": 2} and seen.waiting == "", "a trial without slots has no width"
    now += noting.NOTE_EVERY
    notes.note(state(*UP), "no room", {"0000": 2})
    seen = FleetState.read(run.fleet_file)
    assert seen is not None and seen.waiting == "no room"
    assert (seen.slot_seconds, seen.busy_seconds) == (8.0, 4.0), "one of two slots trains"


def test_a_resumed_search_counts_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, now = Run.create(tmp_path / "run", "search", {}, 0), 100.0
    run.hold()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for _ in range(2):
        notes = noting.FleetNotes(run)
        for _ in range(2):
            notes.note(state(*UP), "", {})
            now += noting.NOTE_EVERY
    seen = FleetState.read(run.fleet_file)
    assert seen is not None and seen.slot_seconds == 4 * noting.NOTE_EVERY
