"""A full run holds as many slots as pay, whenever slots come and go."""

from typing import Any

import pytest

from tuner.fleet.claims import SlotState, State
from tuner.fleet.single import OneTrial


class Resized:
    """Stands for the slots, and remembers what was asked of them."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def resize(self, slots: dict[str, int]) -> None:
        self.asked += slots.values()


def state(up: int, held: int) -> State:
    slots = tuple(SlotState(slot, "n", ("n",), "full" if slot < held else None, False) for slot in range(up))
    return State(slots, 1, 0, "")


def epoch(number: int, workers: int, speed: float) -> dict[str, Any]:
    return {
        "epoch": number,
        "time/images_per_second": speed,
        "time/workers": workers,
        "time/measured_at": 100.0 * number,
        "time/first_step_at": 1.0,
    }


@pytest.mark.parametrize(("speed", "last"), [(190.0, 2), (101.0, 1)], ids=["pays", "does not pay"])
def test_a_width_is_tried_once_its_use_can_be_told(speed: float, last: int) -> None:
    slots = Resized()
    trial = OneTrial(slots, "full", (2, 4), 300)  # type: ignore[arg-type]
    trial.look(state(2, 1))
    assert (slots.asked, trial.width) == ([], 2), "its speed on one slot is not known yet"
    trial.hear(epoch(1, 2, 100.0))
    trial.look(state(2, 1))
    assert (slots.asked, trial.width) == ([2], 4)
    trial.hear(epoch(2, 4, speed))
    trial.look(state(2, 2))
    trial.look(state(2, last))
    assert trial.width == 2 * last


def test_slots_that_go_are_given_back() -> None:
    slots = Resized()
    trial = OneTrial(slots, "full", (1, 2), 300)  # type: ignore[arg-type]
    trial.hear(epoch(1, 1, 100.0))
    for up in (2, 1, 2):
        trial.look(state(up, 1))
    assert slots.asked == [2, 1, 2]
