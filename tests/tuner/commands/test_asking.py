"""`tuner pause`, `stop` and `set`: what they ask the driver, and what they refuse without asking. No Ray."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tuner.commands import asking
from tuner.commands.main import main
from tuner.plan import space, spec
from tuner.runs.requests import Request
from tuner.runs.run import Run
from tuner.search.study import Study

SEARCH = spec.parse({"name": "small", "trials": 4, "resources": {"max_slots": 2}})


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A search with three trials, of which 0001 has failed. Nobody holds it."""
    path = Run.create(tmp_path / "run", "search", SEARCH.plain(), 0).path
    run = Run(path)
    study = Study(run.journal, SEARCH, space.load("teacher"))
    for _ in range(3):
        study.ask()
    study.tell("0001", {}, "it diverged", {})
    return run


Driver = Callable[[str], contextlib.AbstractContextManager[list[Request]]]


@pytest.fixture
def driver(run: Run) -> Driver:
    """A driver that holds the run, gives all requests one answer, and ends where the whole run is meant."""

    @contextlib.contextmanager
    def drive(refused: str = "") -> Iterator[list[Request]]:
        taken, over = list[Request](), threading.Event()

        def serve() -> None:
            held = Run(run.path)
            held.hold()
            ready.set()
            while not over.wait(0.05):
                for request in held.requests.poll():
                    taken.append(request)
                    held.requests.answer(request, refused)
                    if request.key is None and request.action != "set":
                        over.set()

        ready, thread = threading.Event(), threading.Thread(target=serve)
        thread.start()
        ready.wait(10)
        try:
            yield taken
        finally:
            over.set()
            thread.join()

    return drive


@pytest.mark.parametrize(
    ("line", "asked", "said"),
    [
        ("pause {run}", ("pause", None, {}), "paused; continue with: "),
        ("pause {run} --trial 2", ("pause", "0002", {}), "trial 0002 pauses after its present epoch"),
        ("pause {run} --trial 0002 --off", ("promote", "0002", {}), "trial 0002 goes on"),
        ("stop {run}", ("stop", None, {}), "the search has ended; see: "),
        ("stop {run} --trial 0", ("stop", "0000", {}), "trial 0000 is stopped; its last metrics count"),
        ("set {run} resources.max_slots=4", ("set", None, {"resources.max_slots": 4}), "resources.max_slots = 4"),
        ("set {run} storage.limit=null", ("set", None, {"storage.limit": None}), "storage.limit = none"),
        (
            "set {run} storage.limit=none resources.max_slots=none",
            ("set", None, {"storage.limit": None, "resources.max_slots": None}),
            "storage.limit = none\nresources.max_slots = none",
        ),
        (
            "set {run} storage.limit=1.5_GB resources.max_slots=1",
            ("set", None, {"storage.limit": "1.5 GB", "resources.max_slots": 1}),
            "storage.limit = 1.5 GB\nresources.max_slots = 1",
        ),
    ],
)
def test_what_the_driver_is_asked(
    run: Run, driver: Driver, capsys: pytest.CaptureFixture[str], line: str, asked: tuple[object, ...], said: str
) -> None:
    words = [word.format(run=run.path).replace("_GB", " GB") for word in line.split()]
    with driver("") as taken:
        assert main(words) == 0
    (request,) = taken
    assert (request.action, request.key, request.values) == asked
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("pause {run} --trial 1", "--trial 1: has ended already (failed)"),
        ("stop {run} --trial 0001", "--trial 0001: has ended already (failed)"),
        ("pause {run} --trial 3", "--trial 3: the search has no such trial; it has asked 3 trials, 0000 to 0002"),
        ("stop {run} --trial -1", None),
        ("stop {run} --trial abc", "--trial abc: the search has no such trial"),
        ("stop {run} --trial ²", "--trial ²: the search has no such trial"),
        ("pause {run} --off", "--off: needs --trial"),
        (
            "set {run} trials=9",
            "trials: cannot change while a search runs; can be changed: resources.max_slots, storage.limit",
        ),
        (
            "set {run} resources.max_slot=1",
            "resources.max_slot: unknown key; did you mean 'resources.max_slots'?",
        ),
        ("set {run} resources.max_slots=0", "resources.max_slots = 0: must be greater than or equal to 1"),
        ("set {run} storage.limit=50", "storage.limit = 50: must be a size with its unit"),
        ("set {run} resources.max_slots", "resources.max_slots"),
    ],
)
def test_what_is_refused_without_asking(
    run: Run, driver: Driver, capsys: pytest.CaptureFixture[str], line: str, error: str | None
) -> None:
    with driver("") as taken:
        try:
            status = main(line.format(run=run.path).split())
        except SystemExit as end:  # of the parser
            status = int(end.code or 0)
    assert (status, taken) == (2, [])
    said = capsys.readouterr().err
    assert "Traceback" not in said
    if error is not None:
        (text,) = said.splitlines()
        assert error in text


@pytest.mark.parametrize("line", ["pause {run}", "stop {run} --trial 0", "set {run} resources.max_slots=4"])
def test_a_run_that_nobody_runs_has_nobody_to_ask(run: Run, capsys: pytest.CaptureFixture[str], line: str) -> None:
    assert main(line.format(run=run.path).split()) == 2
    (text,) = capsys.readouterr().err.splitlines()
    assert "no driver runs it now, so there is nobody to ask; continue with: " in text
    assert run.requests.poll() == []


def test_the_refusal_of_the_driver_is_said(run: Run, driver: Driver, capsys: pytest.CaptureFixture[str]) -> None:
    with driver("trial 0002: has ended"):
        assert main(["stop", str(run.path), "--trial", "2"]) == 2
    assert capsys.readouterr().err == f"error: {run.path}: trial 0002: has ended\n"


@pytest.mark.parametrize("line", ["stop {run}", "set {run} resources.max_slots=4", "pause {run} --trial 0"])
def test_a_full_run_can_only_be_paused(tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str) -> None:
    full = Run.create(tmp_path / "full", "train", SEARCH.plain(), 0)
    assert main(line.format(run=full.path).split()) == 2
    assert "is a full run" in capsys.readouterr().err
    assert full.requests.poll() == []


def test_a_driver_that_takes_long_to_end_is_not_waited_for_for_ever(
    run: Run, driver: Driver, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(asking, "wait_for_end", lambda run: False)
    with driver(""):
        assert main(["pause", str(run.path)]) == 0
    assert "its driver makes checkpoints and ends; continue with: " in capsys.readouterr().out


def test_a_pause_that_a_full_disc_refuses_names_the_other_way(
    run: Run, driver: Driver, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device", str(path))

    with driver("") as taken:
        monkeypatch.setattr("tuner.runs.requests.write_atomically", full)
        assert main(["pause", str(run.path)]) == 3
    assert taken == []
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(": No space left on device; make room there, or interrupt it with ^C")
