"""A cluster that has no room for a trial yet: what is asked for is said, and the search goes on by itself. No Ray."""

from collections.abc import Callable
from pathlib import Path

import pytest

from trainables.config.errors import BrokenOff, UserError
from tuner.commands.searching import seconds_to_wait
from tuner.fleet import nodes
from tuner.fleet.waiting import wait_for_room
from tuner.plan.resources import Resources
from tuner.runs.run import Run

TWO = Resources(workers=2, cpus_per_worker=2)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", "search", {}, 0)


@pytest.fixture
def sees(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has one look after the other see nodes with these CPUs; the last one is seen for ever."""
    monkeypatch.setattr("tuner.fleet.waiting.ROOM_LOOK", 0.01)

    def set_looks(*looks: list[int]) -> None:
        left = list(looks)

        def look() -> nodes.Nodes:
            cpus = left.pop(0) if len(left) > 1 else left[0]
            return nodes.Nodes({str(number): {"CPU": float(count)} for number, count in enumerate(cpus)})

        monkeypatch.setattr(nodes, "look", look)

    return set_looks


def test_it_says_what_it_asks_for_and_goes_on_by_itself(run: Run, sees: Callable[..., None]) -> None:
    said: list[str] = []
    sees([], [], [2], [2], [2, 2])
    wait_for_room(run, TWO, 60, said.append, None)
    first, second, last = said
    assert first.startswith("waiting: resources.workers = 2: a trial needs 4 CPU") and "the cluster has 0 CPU" in first
    assert "the cluster has 2 CPU" in second, "it is said again when it changes, and only then"
    assert last == "going on"
    assert run.waits() == ""


def test_readers_of_the_run_are_told(run: Run, sees: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    sees([1], [4])
    monkeypatch.setattr(run, "note", heard.append)
    wait_for_room(run, TWO, 60, lambda text: None, None)
    assert heard[0].startswith("waiting: resources.workers = 2") and heard[1:] == [""]


def test_after_the_time_it_ends(run: Run, sees: Callable[..., None]) -> None:
    sees([1])
    with pytest.raises(BrokenOff, match=r"^resources.workers = 2: a trial needs 4 CPU.*; waited for 0.05 s$"):
        wait_for_room(run, TWO, 0.05, lambda text: None, None)


def test_without_a_time_to_wait_it_refuses_at_once(run: Run, sees: Callable[..., None]) -> None:
    said: list[str] = []
    sees([1])
    with pytest.raises(UserError, match="^resources.workers = 2"):
        wait_for_room(run, TWO, 0, said.append, None)
    assert not said


def test_where_there_is_room_nothing_is_said(run: Run, sees: Callable[..., None]) -> None:
    said: list[str] = []
    sees([2, 2])
    wait_for_room(run, TWO, 0, said.append, None)
    assert not said


@pytest.mark.parametrize(
    ("given", "address", "seconds"),
    [
        (None, "local", 0),
        (60, "local", 0),
        (None, "auto", 600),
        (None, "head:6379", 600),
        (0, "auto", 0),
        (90, "auto", 90),
    ],
)
def test_how_long_to_wait(given: float | None, address: str, seconds: float) -> None:
    assert seconds_to_wait(given, address) == seconds
