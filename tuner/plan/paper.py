"""The section `paper` of a search: what a paper printed for the points of a table. No trial depends on it.

The files of the papers' tables are found by `tuner.plan.papers`.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from trainables.config.errors import nearest, shown
from trainables.config.sections import LARGEST, NonNegative, Section
from tuner.plan.objective import METRICS

LONGEST_TEXT = 200  # characters
FIGURES = (
    "averaged_layers",
    "forwards_a_view",
    "minutes_an_epoch",
    "parameters_millions",
    "seconds_a_step",
    "time_over_tma",
)
"""Figures that papers print and that are no metrics. time_over_tma: time, in units of the time of the row TMA."""


def _line(text: str) -> str:
    if not text or not text.isprintable() or len(text) > LONGEST_TEXT:
        raise ValueError(f"must be 1 to {LONGEST_TEXT} characters on one line")
    return text


def _known(reported: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Checks the metrics, such as "finetune_top1" or "finetune_top1, 1 % of the labels"."""
    for name in map(_line, reported):
        if (bare := metric_of(name)) not in METRICS and bare not in FIGURES:
            raise ValueError(f"no metric or figure is named {shown(bare)}{nearest(bare, (*METRICS, *FIGURES))}")
    return reported


def _rows(rows: object) -> object:
    """Returns rows by label; YAML may hold a label that is a number."""
    return {str(label): number for label, number in rows.items()} if isinstance(rows, Mapping) else rows


def _labels(rows: object) -> object:
    """Returns labels as text, for the same reason."""
    return [str(label) for label in rows] if isinstance(rows, list | tuple) else rows


def metric_of(name: str) -> str:
    """Returns the metric or figure of a name in `reported`, which may have a condition behind a comma."""
    return re.split(", ", name, maxsplit=1)[0]


Line = Annotated[str, AfterValidator(_line)]
Printed = Annotated[float, Field(strict=True, ge=-LARGEST, le=LARGEST)]
Rows = Annotated[dict[str, Printed], BeforeValidator(_rows), Field(min_length=1)]
Labels = Annotated[tuple[str, ...], BeforeValidator(_labels)]


class Paper(Section):
    """What a paper printed for the points of a table. It goes with a run, and is no part of any trial."""

    title: Line
    """The paper and its table, such as "Momentum² Teacher, Table 4"."""
    data: Line
    """The data set, as its users call it."""
    gpu_hours: NonNegative | None = None
    """What the whole table costs, estimated."""
    gpu: Line | None = None
    """The GPU that gpu_hours is of, or its speed."""
    reported: Annotated[dict[str, Rows], AfterValidator(_known)] = Field(default_factory=dict)
    """The numbers printed: by metric, with a condition behind a comma where one is needed, then by the point's label.

    A metric is one of those of our runs, such as linear_best_top1 (in percent here, as papers print it), or a figure of
    `FIGURES`, such as seconds_a_step.
    """

    inferred: dict[str, Labels] = Field(default_factory=dict)
    """Which of these numbers the paper does not print, but that follow from what it says: labels by metric."""

    @model_validator(mode="after")
    def _infers_what_it_reports(self) -> Self:
        for metric, labels in self.inferred.items():
            known = self.reported.get(metric, {})
            for label in labels:
                if label not in known:
                    rule = f"paper.reported.{metric} has no number of {shown(label)}{nearest(label, known)}"
                    raise ValueError(f"paper.inferred.{metric}: {rule}")
        return self

    @model_validator(mode="after")
    def _of_a_gpu(self) -> Self:
        if (self.gpu_hours is None) != (self.gpu is None):
            raise ValueError("paper.gpu_hours: goes with paper.gpu, the GPU that they are of, such as V100")
        return self

    def infers(self, metric: str, label: str) -> bool:
        """Whether a number is inferred, and not printed."""
        return label in self.inferred.get(metric, ())

    def require_rows(self, labels: Iterable[str]) -> None:
        """Raises ValueError where a number belongs to no point of the table that has these labels."""
        known = [*labels]
        for metric, rows in self.reported.items():
            for row in rows:
                if not known:
                    raise ValueError("paper.reported: has the rows of a table; give points or a grid")
                if row not in known:
                    raise ValueError(f"paper.reported.{metric}: no point is named {shown(row)}{nearest(row, known)}")


def of_rows(paper: object, labels: Iterable[str]) -> object:
    """Returns a section `paper`, as YAML has it, with the numbers of some points only.

    Args:
        paper: nested values; anything else comes back as it is, for the validation to refuse.
        labels: of the points.
    """
    if not isinstance(paper, Mapping):
        return paper
    known = {*labels}

    def left(rows: object) -> object:
        if isinstance(rows, Mapping):
            return {row: number for row, number in rows.items() if str(row) in known}
        return [row for row in rows if str(row) in known] if isinstance(rows, list) else rows

    sections = {key: section for key in ("reported", "inferred") if isinstance(section := paper.get(key), Mapping)}
    return {
        **paper,
        **{
            key: {metric: kept for metric, rows in section.items() if (kept := left(rows)) not in ({}, [])}
            for key, section in sections.items()
        },
    }
