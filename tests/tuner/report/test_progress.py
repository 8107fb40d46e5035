"""What is seen of a search while it runs, after ^C, and when it is resumed."""

import io
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.tuner.report.test_certainty import SEARCH
from tests.tuner.report.views import BLANK, replace
from tuner.commands import train as full_run
from tuner.plan import space
from tuner.plan import spec as specs
from tuner.report import timing
from tuner.report.progress import Progress
from tuner.report.terminal import heartbeat
from tuner.report.viewer import Viewer
from tuner.runs import run as runs
from tuner.search.study import Study

LAST = {"epoch": 2, "knn_top1": 0.5}


@pytest.fixture
def begun(tmp_path: Path) -> tuple[runs.Run, Study]:
    """A search that is held by this process, of which one trial has ended and two are asked."""
    spec = specs.parse({**SEARCH, "trials": 5})
    run = runs.Run.create(tmp_path / "run", "search", spec.plain(), 0)
    study = Study(run.journal, spec, space.load(spec.space))
    run.hold()
    run.note_hardware([])
    for _ in range(3):
        study.begin(study.ask().key, time.time())  # type: ignore[union-attr]
    study.tell("0000", LAST, None, {"first_step_at": 100.0, "last_metric_at": 130.0, "session": "a", "slot": 0})
    study.observe("0001", {"epoch": 1, "knn_top1": 0.4})
    return run, study


def states(run: runs.Run, study: Study, over: bool = False) -> list[str]:
    return [trial.state for trial in Viewer(run, study).view(over).trials]


def test_a_trial_that_an_earlier_session_left_is_queued_until_it_starts(begun: tuple[runs.Run, Study]) -> None:
    run, study = begun
    assert states(run, study) == ["complete", "running", "running"]
    run.note_hardware([])  # the next session
    assert states(run, study) == ["complete", "queued again", "queued again"]
    study.begin("0001", time.time())
    assert states(run, study) == ["complete", "running", "queued again"]
    study.ask()
    assert states(run, study)[-1] == "queued"


def test_the_table_that_an_interruption_leaves_shows_nothing_that_runs(begun: tuple[runs.Run, Study]) -> None:
    out = io.StringIO()
    run, study = begun
    with (
        pytest.raises(KeyboardInterrupt),
        Progress(run, study, 2, Console(file=out, force_terminal=True, width=100, height=60)),
    ):
        raise KeyboardInterrupt
    last = out.getvalue()[out.getvalue().rindex("proposed") :]
    assert last.count("interrupted") == 2 and "running" not in last


def test_that_no_more_is_proposed_stays_in_the_table(begun: tuple[runs.Run, Study]) -> None:
    out = io.StringIO()
    run, study = begun
    with Progress(run, study, 2, Console(file=out, force_terminal=True, width=100, height=60)) as progress:
        progress.ends("no more trials are proposed")
        progress.epoch_heard(study.interrupted()[0], {})
        progress.follow({"0001": ("steps of epoch 2", 3, 40)})
    last = out.getvalue()[out.getvalue().rindex("0001 steps of epoch 2: 3 of 40") :]
    assert "no more trials are proposed" in last


def test_plain_lines_of_a_search(begun: tuple[runs.Run, Study]) -> None:
    out = io.StringIO()
    run, study = begun
    with Progress(run, study, 1, Console(file=out)) as progress:
        progress.say("starting workers")
        progress.epoch_heard(study.interrupted()[0], {})  # nothing to say so soon
        progress.said -= 61
        progress.epoch_heard(study.interrupted()[0], {})
    first, second, third = out.getvalue().splitlines()
    assert (
        first == f"search 'search': 5 trials, 1 at once, 1 worker each -> {run.path}" and second == "starting workers"
    )
    assert third.startswith(
        "1 of 5 trials ended; running: 0001 at epoch 1/2, 0002 at epoch 0/2; best knn_top1 0.5000; 0:0"
    )
    assert third.endswith("left")


def test_time_that_is_gone_and_time_that_is_left(begun: tuple[runs.Run, Study]) -> None:
    trials = begun[1].trials()
    # each takes 30 s: two run since now, two are to come, two at once
    now = trials[1].user_attrs["started_at"]
    assert timing.left(timing.pace([90.0], trials), trials[1:], 2, now) == pytest.approx(60, abs=2)
    assert timing.left(timing.pace([90.0], trials[1:]), trials[1:], 3, now) is None
    over = timing.pace([90.0, 120.0], trials)
    assert timing.left(over, trials[1:], 2, now) is None, "the trial that ended lasted over an interruption"
    # a session from 90 to its last metric, a night, and a session that runs since 1000
    stamped: list[Any] = [trial for trial in trials if trial.number == 0]
    del stamped[0].user_attrs["started_at"]
    assert timing.elapsed([90.0, 1000.0], stamped, 1020.0) == 40 + 20
    assert timing.elapsed([90.0], stamped, None) == 40 and timing.elapsed([], stamped, None) is None


def test_the_heartbeat_of_a_search_that_has_nothing_yet() -> None:
    view = replace(BLANK, objective="loss", elapsed_s=125.0)
    assert heartbeat(view) == "0 of 1 trial ended; 2:05 elapsed"


def test_the_time_left_of_a_full_run_is_of_this_life() -> None:
    """Two epochs in 100 s long ago, then two in 10 s: the other six take 30 s."""
    before = [{"epoch": float(e), "time/first_step_at": 0.0, "time/measured_at": 50.0 * e} for e in (1, 2)]
    now = [{"epoch": float(e), "time/first_step_at": 900.0, "time/measured_at": 900.0 + 5 * (e - 2)} for e in (3, 4)]
    assert full_run.time_left([*before, *now], 10) == pytest.approx(30)


def test_plain_lines_say_where_trials_are_between_two_epochs(
    begun: tuple[runs.Run, Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also before the first epoch ends, which may be hours away."""
    out = io.StringIO()
    run, study = begun
    shown = Progress(run, study, 2, Console(file=out, width=200))
    shown.follow({"0001": ("steps of epoch 2", 3, 40)})
    assert out.getvalue() == "", "not more than a line a minute"
    monkeypatch.setattr(shown, "said", time.time() - 61)
    shown.follow({"0001": ("steps of epoch 2", 4, 40), "0002": ("batches of features", 7, None)})
    assert "0001 steps of epoch 2: 4 of 40, 0002 batches of features: 7" in out.getvalue()
    assert out.getvalue().count("\n") == 1
