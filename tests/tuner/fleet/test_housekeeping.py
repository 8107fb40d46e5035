"""A search waits for room below `storage.limit`, and goes on when there is some. No Ray."""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tuner.fleet.housekeeping import Housekeeping, known_trials
from tuner.plan import space, spec
from tuner.plan.reading import changed
from tuner.runs.run import EXPORTED, FULL, Run
from tuner.runs.storage_watch import KnownTrial, measured
from tuner.search import events
from tuner.search.study import Study

MB = 10**6
SPEC = spec.parse({"trials": 6, "storage": {"limit": "4.1 MB"}, "trial": {"train": {"epochs": 2}}})
METRIC = SPEC.objective.metric


class Search:
    """A search whose study is real, and in which a test says what runs."""

    def __init__(self, run: Run):
        self.study, self.running = Study(run.journal, SPEC, space.load("teacher")), list[str]()
        self.moves = 0

    @property
    def unfinished(self) -> list[str]:
        return [proposal.key for proposal in self.study.interrupted()]

    def wish(self, event: events.Event) -> None:
        raise AssertionError("nothing is wished")

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        yield

    def begin(self) -> str:
        proposal = self.study.ask()
        assert proposal is not None
        self.go_on(proposal.key)
        return proposal.key

    def go_on(self, key: str) -> None:
        self.running.append(key)
        self.moves += 1

    def pause(self, key: str) -> None:
        self.running.remove(key)
        self.moves += 1

    def end(self, key: str, score: float, epoch: float = 2.0) -> None:
        self.pause(key)
        self.study.tell(key, {"epoch": epoch, METRIC: score}, None, {})


class Told:
    """What a housekeeper has said."""

    def __init__(self) -> None:
        self.closed, self.warned = list[str](), list[str]()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", "search", SPEC.plain(), 0)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    monkeypatch.setattr("tuner.runs.storage.LEAST_FREE", 0)  # whatever room the disc of the tests has
    return Told()


def house(run: Run, told: Told) -> Housekeeping:
    return Housekeeping(run, told.closed.append, told.warned.append)


def write(run: Run, key: str, step: int = 10) -> None:
    folder = run.trial_folder(key)
    folder.mkdir(exist_ok=True)
    (folder / f"step-{step:010d}.safetensors").write_bytes(b"x" * MB)


def checkpoints(run: Run) -> list[str]:
    return sorted(path.parent.name for path in run.path.rglob("step-*"))


def test_no_more_trials_start_while_those_that_run_take_the_room(run: Run, told: Told) -> None:
    search, keeping = Search(run), house(run, told)
    first = search.begin()
    write(run, first)
    keeping.look(search)  # it may come to have four files
    assert not keeping.admits(search)
    assert told.closed == []
    assert told.warned[-1].startswith("no more trials start: storage.limit = 4.1 MB: the run holds 1")
    assert keeping.warnings == (told.warned[-1],)
    search.end(first, 0.5)
    keeping.look(search)
    assert checkpoints(run) == [first], "it is the best"
    assert keeping.admits(search), "nothing runs, so one starts and waits"
    assert "storage.limit = 4.1 MB: the run holds 1" in told.closed[-1]
    search.begin()
    keeping.look(search)
    assert len(told.closed) == 1, "it is said once"
    search.study.take_over(changed(search.study.spec, {"storage.limit": "20 MB"}))
    keeping.look(search)
    assert told.closed[1:] == [""]
    assert keeping.warnings == ()
    assert told.warned[-1] == ""
    assert keeping.admits(search)


def test_a_run_that_holds_too_much_is_closed_until_there_is_room(run: Run, told: Told) -> None:
    search, keeping = Search(run), house(run, told)
    first = search.begin()
    for step in (10, 20, 30):
        write(run, first, step)
    keeping.look(search)
    assert told.closed == []
    (run.path / "logs" / "large").write_bytes(b"x" * 2 * MB)
    keeping.look(search)
    assert len(told.closed) == 1
    assert "the run holds 5" in told.closed[0]
    assert len(checkpoints(run)) == 3, "a trial that has not ended loses nothing"
    (run.path / "logs" / "large").unlink()
    keeping.look(search)
    assert told.closed[1:] == [""]


def test_the_worst_trials_make_room_for_the_next(run: Run, told: Told) -> None:
    search, keeping = Search(run), house(run, told)
    search.study.take_over(changed(search.study.spec, {"storage.limit": "8.5 MB"}))
    scores = [0.1, 0.9, 0.3, 0.8, 0.2]
    for score in scores:
        key = search.begin()
        write(run, key)
        search.end(key, score)
    keeping.look(search)
    assert EXPORTED == 3
    assert checkpoints(run) == ["0001", "0002", "0003", "0004"], "four files of another trial have room now"
    assert keeping.admits(search)
    assert told.closed == []


def test_trials_that_begin_and_end_between_two_looks_are_counted(run: Run, told: Told) -> None:
    search, keeping = Search(run), house(run, told)
    search.study.take_over(changed(search.study.spec, {"storage.limit": "10.5 MB", "trials": 8}))
    keeping.look(search)
    for score in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6):
        assert keeping.admits(search)
        key = search.begin()
        write(run, key, 10)
        write(run, key, 20)
        search.end(key, score)
        assert len(checkpoints(run)) <= 10, "the run holds no more than its limit"
    assert keeping.admits(search)
    assert checkpoints(run) == ["0003"] * 2 + ["0004"] * 2 + ["0005"] * 2, "the worst made room"
    assert told.closed == []


def test_trials_that_go_on_and_pause_between_two_looks_are_counted(run: Run, told: Told) -> None:
    search, keeping = Search(run), house(run, told)
    search.study.take_over(changed(search.study.spec, {"storage.limit": "13 MB"}))
    for key in [search.begin() for _ in range(4)]:
        search.pause(key)
    for key in search.unfinished:
        if keeping.admits(search) and not keeping.closed:
            search.go_on(key)
            for step in range(4):
                write(run, key, step)
            search.pause(key)
    assert len(checkpoints(run)) == 12, "the fourth would have gone past the limit"


def test_a_run_that_cannot_be_measured_lets_no_trial_start_until_it_can(
    run: Run, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    search, keeping = Search(run), house(run, told)
    keeping.look(search)
    running = search.begin()
    away = OSError(errno.ESTALE, "Stale file handle")
    with monkeypatch.context() as change:
        change.setattr(shutil, "disk_usage", raising(away))
        assert not keeping.admits(search)
        search.end(running, 0.5)
        assert keeping.admits(search), "nothing runs, so one starts and waits"
        assert keeping.closed == f"what {run.path} holds cannot be measured (Stale file handle)"
        with pytest.raises(OSError, match="Stale"):
            keeping.look(search)
    keeping.look(search)
    assert keeping.admits(search) and not keeping.closed
    assert told.closed[-1] == ""


def test_a_folder_that_cannot_be_listed_is_not_taken_for_an_empty_one(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed, away = os.scandir, OSError(errno.EIO, "Input/output error")
    monkeypatch.setattr(os, "scandir", lambda path: raising(away)() if str(path).endswith("logs") else listed(path))
    with pytest.raises(OSError, match="Input/output error"):
        measured(run, {})


def raising(error: OSError) -> Callable[..., Any]:
    def fails(*arguments: object) -> Any:
        raise error

    return fails


def test_what_is_known_of_trials(run: Run) -> None:
    search = Search(run)
    for score in (0.1, 0.2, 0.3, 0.4):
        search.end(search.begin(), score)
    search.end(search.begin(), 0.9, epoch=1.0)
    running = search.begin()
    known = known_trials(search.study)
    assert [key for key, trial in known.items() if trial.kept] == ["0001", "0002", "0003"]
    assert known["0000"] == KnownTrial(4, True, False, (True, 0.1))
    assert known["0004"].rank == (False, 0.9), "it was stopped before its last epoch"
    assert not known[running].ended
    assert list(known_trials(search.study, [running])) == [running]


def test_a_closed_search_says_its_reason_once_and_with_the_sizes_of_now(run: Run, told: Told) -> None:
    search, keeping = Search(run), house(run, told)
    first = search.begin()
    write(run, first)
    keeping.look(search)
    assert not keeping.admits(search)
    assert keeping.warnings and not keeping.closed
    (run.path / "logs" / "large").write_bytes(b"x" * 4 * MB)
    keeping.look(search)
    assert "the run holds 5" in keeping.closed
    assert keeping.warnings == (), "what is waited for is no warning as well"
    (run.path / "logs" / "larger").write_bytes(b"x" * 2 * MB)
    keeping.look(search)
    assert "the run holds 7" in keeping.closed
    assert len(told.closed) == 1


def test_a_full_run_is_warned_of_its_disc_until_there_is_room(run: Run, told: Told) -> None:
    keeping, checkpoint = house(run, told), run.trial_folder(FULL) / "step-0000000010.safetensors"
    keeping.look_alone(FULL, 2)
    assert (told.warned, keeping.warnings) == ([], ())
    checkpoint.parent.mkdir()
    with checkpoint.open("wb") as file:  # a file with a hole takes no room
        file.truncate(shutil.disk_usage(run.path).free)
    keeping.look_alone(FULL, 2)
    assert told.warned[-1].startswith(f"the disc of {run.path} has ")
    assert "the next checkpoints of the running trials take " in told.warned[-1]
    assert keeping.warnings == (told.warned[-1],)
    checkpoint.unlink()
    keeping.look_alone(FULL, 2)
    assert (told.warned[1:], keeping.warnings) == ([""], ())
    assert told.closed == [], "it goes on as long as it can"
