"""Views of a run that tests make by hand."""

from dataclasses import replace
from pathlib import Path

from tuner.report.view import RunView

BLANK = RunView(
    run=Path("run"),
    name="search",
    space="teacher",
    objective="knn_top1",
    mode="max",
    trials_wanted=1,
    epochs=1,
    held=False,
    waits=None,
    ended=0,
    network="student",
    validation_images=None,
    trials=(),
    points=None,
    seeds=1,
    best=None,
    best_point=None,
    best_score=None,
    best_interval=None,
    untrained=None,
    untrained_interval=None,
    elapsed_s=None,
    left_s=None,
    gap_median_s=None,
    gaps=0,
)
"""A search in which nothing was asked; `replace` makes others of it."""

__all__ = ["BLANK", "replace"]
