"""What a driver says of its slots is read as it was written, and not shown when it does not hold any more."""

import time
from pathlib import Path

import pytest

from tuner.runs.fleet_state import STALE, FleetSlot, FleetState


def state(at: float) -> FleetState:
    slots = (FleetSlot(0, "a", "0003"), FleetSlot(1, "b", "0003"), FleetSlot(2, "b", None))
    return FleetState(at, slots, {"0003": 4}, "no room for a worker of 1 CPU", 120.0, 90.0, ("little room",))


def test_a_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = state(time.time())
    written.write(tmp_path / "fleet.json")
    read = FleetState.read(tmp_path / "fleet.json")
    assert read == written
    assert (read.nodes, read.utilisation) == (2, 0.75)
    assert FleetState(0.0).utilisation is None


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"at": "now", "slots": [], "warnings": []}', '{"at": 1, "x": 2}'])
def test_a_damaged_state_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "fleet.json").write_text(content)
    assert FleetState.read(tmp_path / "fleet.json") is None


def test_a_state_does_not_hold_for_long() -> None:
    assert not state(time.time()).stale
    assert state(time.time() - STALE - 1).stale
