"""A typed view of a run: `status`, the live table, closing lines and export read it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tuner.report.beside import Beside
from tuner.report.certainty import Interval
from tuner.report.points import PointView
from tuner.runs.fleet_state import FleetSlot
from tuner.search.study import Metrics

VERSION = 1
"""Version of what `status --json` prints. Keys may be added to a version, none is renamed or removed."""


@dataclass(frozen=True)
class TrialView:
    """A trial. The fields, in their order, are what `status --json` prints of it.

    Attributes:
        key: its number in the study, as four digits or more.
        state: in a word or two: one of `viewer.STATES`, "paused", "queued", "queued again" or "interrupted".
        epoch: the last one that was heard of.
        epochs: how long the trial is.
        score: the objective at its end, or else at its last epoch.
        interval: 95 % of the score, where the number of validation images is known.
        curve: the objective by epoch.
        point: its label in a table; None where a space proposed it.
        values: the proposed values, by dotted key.
        metrics: of its last epoch.
        slot: index of the slot that trained it last; None before its end.
        best_epoch: the epoch with the best objective.
        best_epoch_score: the objective there.
        collapsed: whether its last embeddings were collapsed.
        error: why it failed.
        log: of the worker that the error names.
        workers: that train it now; None where it is not being trained.
    """

    key: str
    state: str
    epoch: int
    epochs: int
    score: float | None
    interval: Interval | None
    curve: Mapping[int, float]
    point: str | None
    values: Mapping[str, object]
    metrics: Metrics
    slot: int | None
    best_epoch: int | None
    best_epoch_score: float | None
    collapsed: bool
    error: str | None
    log: Path | None
    workers: int | None = None


@dataclass(frozen=True)
class RunView:
    """A run. The fields, in their order, are what `status --json` prints of it, behind the version.

    Attributes:
        run: its directory.
        name: of the search.
        space: that proposes the trials; None for a table of points.
        objective: the metric.
        mode: whether more of it is better: "max" or "min".
        trials_wanted: how many trials the search has in all.
        epochs: of a trial.
        held: whether a process runs the search now.
        waits: what that process waits for; None where it does not wait.
        ended: the number of trials that have ended.
        network: whose scores are measured: "student" or "teacher".
        validation_images: their number, where it is known.
        trials: in the order in which they were asked.
        points: of a table, in its order; None where a space proposes.
        seeds: of each point.
        best: key of the best complete trial; of a table that of the best point's trial with the first seed.
        best_point: its label, in a table.
        best_score: its score; of a point the mean over its seeds.
        best_interval: 95 % of that score.
        untrained: score of the untrained encoder.
        untrained_interval: 95 % of that score.
        elapsed_s: seconds that the search has run, over all its sessions.
        left_s: estimate of the seconds until it ends, while it runs.
        gap_median_s: median of the seconds between two trials on a slot.
        gaps: the number of these gaps.
        slots: whose workers are up now, with the node of each and the trial that it trains.
        warnings: what a user should know now, such as a disc that has little room.
        slot_seconds: how long slots have been up, summed over all slots and sessions.
        utilisation: share of that time that slots were busy with a trial, as `fleet_state.FleetState` counts it.
        paper: a table beside its paper; None where no paper prints a score of it, and in views of a screen.
    """

    run: Path
    name: str
    space: str | None
    objective: str
    mode: Literal["max", "min"]
    trials_wanted: int
    epochs: int
    held: bool
    waits: str | None
    ended: int
    network: str
    validation_images: int | None
    trials: tuple[TrialView, ...]
    points: tuple[PointView, ...] | None
    seeds: int
    best: str | None
    best_point: str | None
    best_score: float | None
    best_interval: Interval | None
    untrained: float | None
    untrained_interval: Interval | None
    elapsed_s: float | None
    left_s: float | None
    gap_median_s: float | None
    gaps: int
    slots: tuple[FleetSlot, ...] = ()
    warnings: tuple[str, ...] = ()
    slot_seconds: float | None = None
    utilisation: float | None = None
    paper: Beside | None = None

    @property
    def nodes(self) -> int:
        """On how many nodes there are slots."""
        return len({slot.node for slot in self.slots})


def as_json(view: RunView) -> dict[str, Any]:
    """What `status --json` prints: plain values, ready for `json.dumps`."""
    points = view.points and [_plain_point(point) for point in view.points]
    trials = [
        {
            **{name: value for name, value in vars(trial).items() if name != "slot"},
            "metrics": trial.metrics and {**trial.metrics, "trial": trial.key, "slot": trial.slot},
            "curve": {str(epoch): value for epoch, value in trial.curve.items()},
            "log": trial.log and str(trial.log),
        }
        for trial in view.trials
    ]
    paper = view.paper and {
        **vars(view.paper),
        "rows": [{**_plain_point(row.ours), "paper": row.paper, "inferred": row.inferred} for row in view.paper.rows],
        "rank": view.paper.rank and vars(view.paper.rank),
    }
    plain = {"run": str(view.run), "trials": trials, "points": points, "slots": [vars(slot) for slot in view.slots]}
    return {"version": VERSION, **vars(view), **plain, "paper": paper}


def _plain_point(point: PointView) -> dict[str, Any]:
    return {**vars(point), "scores": {str(seed): score for seed, score in point.scores.items()}}


class Best(NamedTuple):
    """The best epoch of a curve."""

    epoch: int
    score: float


def best_of(curve: Mapping[int, float], mode: str) -> Best | None:
    """The best epoch of a curve of the objective, the first of several; None for an empty curve.

    It is chosen on the split that it is measured on.
    """
    if not curve:
        return None
    epoch = (max if mode == "max" else min)(sorted(curve), key=lambda epoch: curve[epoch])
    return Best(epoch, curve[epoch])
