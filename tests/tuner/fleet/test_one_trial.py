"""A full run holds as many slots as pay, whenever slots come and go, and warns of a disc with little room."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tuner.fleet.test_kill import wait_for
from tuner.fleet import single
from tuner.fleet.claims import SlotState, State
from tuner.fleet.single import OneTrial
from tuner.plan import spec as specs
from tuner.report import full_run
from tuner.runs.run import FULL, Run


class Resized:
    """Stands for the slots, and remembers what was asked of them."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, ...]] = []
        self.useful = 0

    def resize(self, counts: dict[str, tuple[int, ...]]) -> None:
        self.asked += counts.values()


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
    trial = OneTrial(slots, "full", (2, 4), 300, 1)  # type: ignore[arg-type]
    trial.look(state(2, 1))
    assert (slots.asked, trial.width) == ([], 2), "its speed on one slot is not known yet"
    trial.hear(epoch(1, 2, 100.0))
    trial.look(state(2, 1))
    assert (slots.asked, trial.width) == ([(1, 2)], 4)
    trial.hear(epoch(2, 4, speed))
    trial.look(state(2, 2))
    assert (trial.width, slots.useful) == (4, 2), "the first epoch on a width cannot show that it does not pay"
    trial.hear(epoch(3, 4, speed))
    trial.look(state(2, 2))
    trial.look(state(2, last))
    assert trial.width == 2 * last and slots.useful == last


def test_slots_that_go_are_given_back() -> None:
    slots = Resized()
    trial = OneTrial(slots, "full", (1, 2), 300, 1)  # type: ignore[arg-type]
    trial.hear(epoch(1, 1, 100.0))
    for up in (2, 1, 2):
        trial.look(state(up, 1))
    assert slots.asked == [(1, 2), (1,), (1, 2)]


@pytest.mark.parametrize(
    ("launched", "at", "widened"),
    [(0.0, 504.0, True), (0.0, 596.0, False), (550.0, 596.0, True)],
    ids=["begins", "nearly over", "told again by a resume"],
)
def test_what_is_trained_since_the_last_epoch_counts(launched: float, at: float, widened: bool) -> None:
    """The last of six epochs of 99 s: less than 5 s are too little for a resize."""
    slots, now = Resized(), [launched]
    trial = OneTrial(slots, "full", (1, 2), 6, 1, lambda: now[0])  # type: ignore[arg-type]
    for number in range(1, 6):
        trial.hear(epoch(number, 1, 100.0))
    now[0] = at
    trial.look(state(2, 1))
    assert bool(slots.asked) == widened


class PlayedSlots(Resized):
    """Slots that a full run gets at once."""

    waiting = ""

    def hold(self, why: str) -> None:
        raise AssertionError(f"a full run goes on as long as it can: {why}")


def test_readers_of_a_full_run_see_that_its_disc_has_little_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = specs.parse({"name": "train", "resources": {"workers": 1}})
    run, said, groups = Run.create(tmp_path / "full", "train", spec.plain(), 0), list[str](), PlayedSlots()

    @contextlib.contextmanager
    def joined(*arguments: object) -> Iterator[tuple[PlayedSlots, list[object]]]:
        yield groups, []

    def converse(groups: Any, *arguments: object) -> list[Any]:
        wait_for(lambda: said, "warning", 20)
        groups.on_look(state(1, 1))
        return []

    monkeypatch.setattr(single, "joined_slots", joined)
    monkeypatch.setattr(single, "converse", converse)
    monkeypatch.setattr(single, "HOUSE_LOOK", 0.01)
    monkeypatch.setattr("tuner.runs.storage.LEAST_FREE", 10**18)
    single.train_alone(
        run, "local", spec.resources, FULL, spec.trial, lambda metrics: None, said.append, lambda *position: None
    )
    (line,) = full_run.view_of(run).warnings
    assert line.startswith(f"the disc of {run.path} has ") and said == [f"warning: {line}"]
