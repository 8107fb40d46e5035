"""What other processes ask of a driver is carried out once, or refused with the reason. No Ray."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tuner.fleet.wishes import Wishes
from tuner.plan import space, spec
from tuner.plan.spec import parse
from tuner.runs.run import Run
from tuner.search import events
from tuner.search.core import Core
from tuner.search.study import Study

SPEC = spec.parse({"trials": 3, "resources": {"workers": "1-2", "max_slots": 2}, "stopping": {"kind": "none"}})


class Search:
    """A search with a real core and study, whose trials run nowhere."""

    def __init__(self, run: Run):
        self.core = Core(Study(run.journal, SPEC, space.load("teacher")))
        self.study, self.decided = self.core.study, list[events.Decision | None]()

    @property
    def unfinished(self) -> list[str]:
        return self.core.unfinished

    @property
    def running(self) -> list[str]:
        return self.core.running

    def wish(self, event: events.Event) -> None:
        self.decided.append(self.core.hear(event))

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        yield


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run.create(tmp_path / "run", "search", SPEC.plain(), 0)
    (run.path / "spec.yaml").chmod(0o644)
    return run


@pytest.fixture
def search(run: Run) -> Search:
    search = Search(run)
    for _ in range(2):
        search.core.hear(events.WorkWanted(2, 2))
    return search


def answers(run: Run, search: Search | None, *asked: tuple) -> list[str]:
    """What a driver answers to some requests."""
    wishes = Wishes(run)
    wishes.search = search
    sent = [run.requests.send(*request) for request in asked]
    wishes.look()
    return [run.requests.wait(request, lambda: True, 0.3) for request in sent]


def test_trials_are_paused_promoted_and_stopped(run: Run, search: Search) -> None:
    assert search.running == ["0000", "0001"]
    assert answers(run, search, ("pause", "0000"), ("stop", "0001")) == ["", ""]
    assert search.decided == [None, events.StopNow(("0001",))]
    metrics = {"epoch": 1.0, "step": 4.0, search.study.spec.objective.metric: 0.5}
    assert search.core.hear(events.EpochEnded("0000", metrics)) == events.Pause("0000")
    assert answers(run, search, ("promote", "0000")) == [""]
    decision = search.core.hear(events.WorkWanted(2, 2))
    assert isinstance(decision, events.Start)
    assert decision.proposal.key == "0000"


def test_a_trial_that_has_ended_is_refused(run: Run, search: Search) -> None:
    search.core.hear(events.TrialEnded("0001", {}, "it diverged"))
    assert answers(run, search, ("stop", "0001"), ("pause", "0007")) == [
        "trial 0001: has ended",
        "trial 0007: has ended",
    ]
    assert search.decided == []


def test_a_search_is_ended(run: Run, search: Search) -> None:
    assert answers(run, search, ("stop",)) == [""]
    assert search.decided == [events.StopNow(("0000", "0001"))]
    assert isinstance(search.core.hear(events.WorkWanted(2, 2)), events.Finish)


def test_what_is_set_holds_for_the_core_and_for_a_resume(run: Run, search: Search) -> None:
    values = {"resources.max_slots": 1, "storage.limit": "5 GB"}
    assert search.core.useful_slots > 1
    assert answers(run, search, ("set", None, values)) == [""]
    assert search.core.useful_slots == 1
    assert search.study.spec.storage.limit == "5 GB"
    again = parse(Run(run.path).spec)
    assert (again.resources.max_slots, again.storage.limit) == (1, "5 GB")
    Study(run.journal, again, search.study.space)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"resources.max_slots": 0}, "resources.max_slots = 0: "),
        ({"trial.train.epochs": 3}, "trial.train.epochs = 3: was 10 at the launch"),
    ],
)
def test_what_may_not_be_set_changes_nothing(run: Run, search: Search, values: dict, why: str) -> None:
    before = (run.path / "spec.yaml").read_text()
    (refused,) = answers(run, search, ("set", None, values))
    assert why in refused
    assert search.study.spec == SPEC
    assert (run.path / "spec.yaml").read_text() == before


def test_what_cannot_be_written_changes_nothing(run: Run, search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(content: object) -> None:
        raise OSError(28, "No space left on device", "spec.yaml")

    monkeypatch.setattr(run, "write_spec", full)
    (refused,) = answers(run, search, ("set", None, {"resources.max_slots": 1}))
    assert refused == "spec.yaml: cannot be written (No space left on device), so nothing was changed"
    assert search.study.spec == SPEC


def test_before_a_search_has_begun_requests_wait(run: Run, search: Search) -> None:
    request = run.requests.send("stop", "0000")
    wishes = Wishes(run)
    wishes.look()
    assert run.requests.poll() == [request]
    wishes.search = search
    wishes.look()
    assert run.requests.poll() == []


def test_a_full_run_can_only_be_paused(tmp_path: Path) -> None:
    full = Run.create(tmp_path / "full", "train", SPEC.plain(), 0)
    assert answers(full, None, ("stop", "full"), ("set", None, {})) == ["is a full run, which can only be paused"] * 2


PAUSED = """
import signal, sys, time
from pathlib import Path
from tuner.fleet.cluster import _end_like_interrupted
from tuner.fleet.wishes import Wishes, why_interrupted
from tuner.runs.run import Run
_end_like_interrupted()
signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a script that starts a driver in the background has it
run = Run(Path(sys.argv[1]))
run.hold()
with Wishes(run).heard():
    print("held", flush=True)
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        print(why_interrupted(), flush=True)
        sys.exit(130)
"""


def test_a_pause_interrupts_the_main_thread_in_its_own_words(tmp_path: Path) -> None:
    path = Run.create(tmp_path / "run", "search", SPEC.plain(), 0).path
    driver = subprocess.Popen([sys.executable, "-c", PAUSED, path], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    assert driver.stdout.readline() == "held\n"
    run = Run(path)
    assert run.requests.wait(run.requests.send("pause"), run.held, 20) == ""
    assert driver.communicate(timeout=20)[0] == "paused as asked\n"
    assert driver.returncode == 130


def test_a_request_is_taken_only_by_a_driver_that_can_carry_it_out(
    run: Run, search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While Ray starts, the sender may still withdraw it; what the sender has withdrawn is not carried out."""
    wishes = Wishes(run)
    request = run.requests.send("stop", "0001")
    wishes.look()
    assert run.requests.poll() == [request]
    wishes.search = search
    monkeypatch.setattr("tuner.runs.requests.Requests.poll", lambda requests: [request])
    (run.requests.folder / f"{request.name}.request").unlink()
    wishes.look()
    assert search.decided == []
