"""The view of a run: what programs read of it, and what a frame of the live table costs."""

import random
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from tests.tuner.report.test_certainty import SEARCH, finished
from tuner.plan import space
from tuner.plan import spec as specs
from tuner.report import terminal
from tuner.report import viewer as viewers
from tuner.report.view import TrialView, as_json
from tuner.report.viewer import Viewer, view_of
from tuner.runs.run import Run
from tuner.search.study import Study

RUN_KEYS = """
version run name space objective mode trials_wanted epochs held waits ended network validation_images trials points
seeds best best_point best_score best_interval untrained untrained_interval elapsed_s left_s gap_median_s gaps
slots warnings slot_seconds utilisation paper
"""
TRIAL_KEYS = """
key state epoch epochs score interval curve point values metrics best_epoch best_epoch_score collapsed error log
workers
"""


def test_json_has_its_keys_in_their_order(tmp_path: Path) -> None:
    run, study = finished(tmp_path, [0.3, 0.4], {"knn_top1": 0.5, "validation_images": 100.0})
    content = as_json(view_of(run, study))
    assert list(content) == RUN_KEYS.split()
    assert list(content["trials"][1]) == TRIAL_KEYS.split()
    assert content["run"] == str(run.path) and content["best"] == "0001"
    assert content["trials"][1]["curve"] == {} and content["trials"][1]["log"] is None


def test_json_of_a_curve_and_an_error(tmp_path: Path) -> None:
    run, study = finished(tmp_path, [], {"knn_top1": 0.5}, trials=2)
    key = study.ask().key
    study.observe(key, {"epoch": 1, "knn_top1": 0.4})
    study.tell(key, {"epoch": 1, "knn_top1": 0.4}, "it broke (worker 3)", {})
    (trial,) = as_json(view_of(run, study))["trials"]
    assert trial["curve"] == {"1": 0.4} and trial["log"] == str(run.path / "trials" / key / "rank-3.log")
    assert (trial["best_epoch"], trial["best_epoch_score"]) == (1, 0.4)


def lively(folder: Path, count: int, seed: int = 0) -> tuple[Run, Study]:
    """A search in which nearly all of `count` trials have ended, some of them early or by a fault."""
    spec = specs.parse({**SEARCH, "trials": count, "sampler": "random"})
    run = Run.create(folder / "run", "search", spec.plain(), 0)
    study, draw = Study(run.journal, spec, space.load(spec.space)), random.Random(seed)
    run.note_hardware([])
    for number in range(count - 1):
        key, score = study.ask().key, round(0.8 * draw.random(), 1)
        study.begin(key, 1e10)
        if number % 4:
            study.observe(key, {"epoch": 1, "knn_top1": score})
        if number < count - 4:
            last = {"epoch": 1 + number % 2, "knn_top1": score}
            study.tell(key, last, "it broke" if number % 5 == 0 else None, {})
    return run, study


def test_a_frame_costs_what_runs_and_not_what_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of ended trials are made once; statistics only when another trial ends."""
    run, study = lively(tmp_path, 40)
    run.write_baseline({"knn_top1": 0.5, "validation_images": 100.0})
    made, summed = [], []
    row, best = viewers._row, study.best

    def counted_row(run: Run, study: Study, trial: object, *more: object) -> TrialView:
        made.append(trial)
        return row(run, study, trial, *more)

    monkeypatch.setattr(viewers, "_row", counted_row)
    monkeypatch.setattr(study, "best", lambda count: summed.append(count) or best(count))
    viewer = Viewer(run, study)
    viewer.view()
    assert len(made) == 39 and len(summed) == 1
    for _ in range(5):
        viewer.newsworthy(10)
    assert len(made) == 39 + 5 * 3 and len(summed) == 1, "three trials have not ended"
    study.tell("0036", {"epoch": 2, "knn_top1": 0.9}, None, {})
    assert viewer.newsworthy(10).best == "0036" and len(summed) == 2
    made.clear()
    viewer.view()
    assert len(made) == 2


@pytest.mark.parametrize("seed", range(5))
def test_frames_are_the_views_that_a_reader_makes(tmp_path: Path, seed: int) -> None:
    """A viewer that has seen all moments of a search shows what one shows that begins now."""
    run, study = lively(tmp_path, 12, seed)
    viewer = Viewer(run, study)
    viewer.view()
    run.write_baseline({"knn_top1": 0.5, "validation_images": 100.0})  # intervals are known from now on
    for key, score in (("0009", 0.6), ("0010", 0.2)):
        study.tell(
            key,
            {"epoch": 2, "knn_top1": score},
            None,
            {"first_step_at": 5.0, "last_metric_at": 9.0, "slot": 0, "session": "a"},
        )
        viewer.newsworthy(5)
    study.ask()
    seen, fresh = as_json(viewer.view()), as_json(view_of(run, study))
    for clock in ("elapsed_s", "left_s"):
        assert seen.pop(clock) == pytest.approx(fresh.pop(clock), abs=1)
    assert seen == fresh


@pytest.mark.parametrize("count", [1, 5, 9, 30])
def test_a_screen_shows_what_runs_and_then_the_best(tmp_path: Path, count: int) -> None:
    run, study = lively(tmp_path, 20)
    everything = view_of(run, study).trials
    ranked = sorted(everything, key=lambda t: (t.state != "running", t.score is None, -(t.score or 0)))
    kept = {trial.key for trial in ranked[:count]}
    shown = Viewer(run, study).newsworthy(count)
    assert [trial.key for trial in shown.trials] == [trial.key for trial in everything if trial.key in kept]
    assert terminal.table_of(shown).row_count == min(count, len(everything))


def test_a_frame_that_is_drawn_during_a_proposal_shows_the_trials_that_were_asked(tmp_path: Path) -> None:
    """The screen draws in a thread of its own, while the main thread draws the next trial in the study's mirror."""
    run, study = lively(tmp_path, 3)
    view, seen, suggest = Viewer(run, study), list[int](), study.space.suggest

    def slow(trial: optuna.Trial) -> dict:
        seen.append(len(view.view().trials))
        values = suggest(trial)
        seen.append(len(view.view().trials))
        return values

    before = len(study.trials())
    study.space = replace(study.space, suggest=slow)
    assert study.ask() is not None
    assert seen == [before, before] and len(view.view().trials) == before + 1
