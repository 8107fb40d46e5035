"""Collapsed trials are marked wherever a trial is shown, and keep their scores."""

from pathlib import Path
from typing import Any

import pytest

from tuner.plan import points
from tuner.plan import spec as specs
from tuner.report.viewer import view_of
from tuner.report.wording import state_of
from tuner.runs import run as runs
from tuner.search.collapse import COLLAPSED_BELOW, collapsed
from tuner.search.study import Study

METRICS: dict[str, Any] = {"epoch": 1, "knn_top1": 0.5}


@pytest.mark.parametrize(
    ("metrics", "prototypes", "expected"),
    [
        ({"embedding_std": 0.0}, 0, True),
        ({"embedding_std": COLLAPSED_BELOW}, 0, False),
        ({"embedding_std": 0.8}, 0, False),
        ({"embedding_std": float("nan")}, 0, False),
        ({}, 0, False),
        ({"embedding_std": 0.02}, 256, False),
        ({"embedding_std": 0.001}, 256, True),
    ],
)
def test_what_counts_as_collapsed(metrics: dict[str, Any], prototypes: int, expected: bool) -> None:
    assert collapsed(metrics, prototypes) is expected


def test_a_collapsed_trial_is_marked_and_its_score_counts(tmp_path: Path) -> None:
    spec = specs.parse(
        {"points": {"flat": {}, "healthy": {"teacher.placement": "projector"}}, "trial": {"train": {"epochs": 1}}}
    )
    run = runs.Run.create(tmp_path / "run", "search", spec.plain(), spec.seed)
    study = Study(run.journal, spec, points.load(spec))
    for spread in (0.001, 0.7):
        study.tell(study.ask().key, {**METRICS, "embedding_std": spread}, None, {})
    assert [trial.user_attrs["collapsed"] for trial in study.trials()] == [True, False]
    rows = view_of(run, study).trials
    assert [(row.collapsed, row.score) for row in rows] == [(True, 0.5), (False, 0.5)]
    assert [state_of(row) for row in rows] == ["complete, collapsed", "complete"]
