"""A run's table beside the numbers that its paper printed, and how alike the two orders of the rows are."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from optuna.trial import FrozenTrial, TrialState

from trainables.config import trial as c
from trainables.config.errors import UserError
from trainables.config.evaluation import METRICS as PROTOCOL_OF
from trainables.config.evaluation import PROTOCOLS
from trainables.config.settings import flat
from tuner.plan import points
from tuner.plan.objective import METRICS
from tuner.plan.spec import SearchSpec
from tuner.report import certainty
from tuner.report.points import PointView, point_of
from tuner.report.ranks import RankCorrelation, rank_correlation
from tuner.runs import kept_scores
from tuner.runs.run import Run
from tuner.search.study import Study, key_of

Scores = Mapping[str, Mapping[int, float]]
"""Scores by label and seed."""


@dataclass(frozen=True)
class BesideRow:
    """A row of a table.

    Attributes:
        ours: what we have of it.
        paper: the paper's number, as a share where ours is one.
        inferred: whether the paper does not print this number, but says what it follows from.
    """

    ours: PointView
    paper: float | None
    inferred: bool = False


@dataclass(frozen=True)
class Beside:
    """A table beside its paper.

    Attributes:
        title: of the paper's table.
        reported: the paper's metric.
        metric: ours; another one where no trial has the paper's.
        split: of our images: "test" where `tuner evaluate` scored the trials, else "validation".
        rows: all rows of the table, in its order.
        rank: the rank correlation of our means with the paper's numbers; None for fewer than three rows with both.
        otherwise: how the evaluation of our test scores differs from the table's section `evaluation`: a text for each
            key with another value.
    """

    title: str
    reported: str
    metric: str
    split: Literal["test", "validation"]
    rows: tuple[BesideRow, ...]
    rank: RankCorrelation | None
    otherwise: tuple[str, ...] = ()

    @property
    def compared(self) -> int:
        """How many rows have a score of ours and a number of the paper."""
        return sum(row.paper is not None and row.ours.mean is not None for row in self.rows)


@dataclass(frozen=True)
class _Source:
    """Scores that can stand beside a metric of the paper."""

    reported: str
    metric: str
    split: Literal["test", "validation"]
    scores: Scores
    images: int | None
    otherwise: tuple[str, ...] = ()


def beside(run: Run, study: Study) -> Beside | None:
    """The table of a run beside its paper; None where the paper prints no score of a row.

    Of the paper's metrics that one is taken of which most rows have a score of ours; of several one on test images, the
    objective, and any other, in this order. Where there is none, the objective stands beside the paper's first metric.
    """
    spec = study.spec
    printed = printed_scores(spec)
    if not printed:
        return None
    trials = [trial for trial in study.trials() if trial.state == TrialState.COMPLETE]
    sources = [*_tested(run, spec, trials, printed), *_validated(run, spec, trials, printed)]
    best = max(sources, key=lambda source: _matching(source, printed[source.reported]))
    unit = 100 if certainty.is_share(best.metric) and certainty.is_share(best.reported) else 1
    numbers = {label: number / unit for label, number in printed[best.reported].items()}
    first = next(iter(best.scores.values()), {})
    assert spec.paper is not None
    rows = [
        BesideRow(
            point_of(label, best.scores[label], first, best.metric, best.images),
            numbers.get(label),
            spec.paper.infers(best.reported, label),
        )
        for label in spec.table
    ]
    both = [(row.ours.scores, row.paper) for row in rows if row.ours.scores and row.paper is not None]
    rank = rank_correlation([scores for scores, _ in both], [number for _, number in both])
    return Beside(spec.paper.title, best.reported, best.metric, best.split, tuple(rows), rank, best.otherwise)


def printed_scores(spec: SearchSpec) -> dict[str, Mapping[str, float]]:
    """The paper's scores, by metric and label; those under a condition are left out."""
    reported = spec.paper.reported if spec.paper else {}
    return {metric: rows for metric, rows in reported.items() if metric in METRICS}


def _matching(source: _Source, printed: Mapping[str, float]) -> int:
    """How many rows a source has a score of that the paper has a number of."""
    return sum(bool(scores) and label in printed for label, scores in source.scores.items())


def _tested(
    run: Run, spec: SearchSpec, trials: Sequence[FrozenTrial], printed: Mapping[str, object]
) -> Iterator[_Source]:
    """Scores on test images, as `tuner evaluate` kept them: of each trial the newest one of its last step."""
    of_point = points.configs(spec)
    configs = {trial.number: of_point[trial.params["point"]] for trial in trials}
    kept = {trial.number: _usable(run, trial, configs[trial.number]) for trial in trials}
    for metric in printed:
        having = {number: [one for one in contents if metric in one] for number, contents in kept.items()}
        found = {number: contents[-1] for number, contents in having.items() if contents}  # the newest comes last
        scores = _by_label(spec, trials, {number: content[metric] for number, content in found.items()})
        images = next((int(content["images"]) for content in found.values()), None)
        apart = [key for number, content in found.items() for key in _otherwise(content, configs[number], metric)]
        yield _Source(metric, metric, "test", scores, images, tuple(dict.fromkeys(apart)))


def _usable(run: Run, trial: FrozenTrial, config: c.TrialConfig) -> list[dict[str, Any]]:
    """Kept evaluations on test images of a trial's last step, oldest first.

    They are those of the network that the trial scores, with the trial's own labels.
    """
    labels, last = config.data.labels.model_dump(mode="json"), trial.user_attrs.get("metrics", {}).get("step")
    return [
        content
        for content in kept_scores.read(run.trial_folder(key_of(trial)))
        if (content.get("split"), content.get("network")) == ("test", config.evaluation.network)
        and isinstance(content.get("step"), int)
        and content["step"] == last
        and all(content.get("labels", {}).get(key) == labels[key] for key in ("per_class", "share", "file"))
    ]


def _otherwise(content: Mapping[str, Any], config: c.TrialConfig, metric: str) -> Iterator[str]:
    """How a kept evaluation differs from a trial's section `evaluation`, in what counts for a metric.

    Keys that an evaluation of an earlier version lacks are passed over.
    """
    giver, own = PROTOCOL_OF[metric], config.evaluation
    given: dict[str, Any] = {"before_feature_norm": content.get("before_feature_norm", own.before_feature_norm)}
    wanted: dict[str, Any] = {"before_feature_norm": own.before_feature_norm}
    for name in (giver, *PROTOCOLS[giver].USES):
        given[name] = content.get("settings", {}).get(name, {})
        wanted[name] = own.protocol(name).model_dump(mode="json")
    values = flat(wanted)
    for key, value in flat(given).items():
        if key in values and value != values[key]:
            yield f"evaluation.{key} = {value} (the table: {values[key]})"


def _validated(
    run: Run, spec: SearchSpec, trials: Sequence[FrozenTrial], printed: Mapping[str, object]
) -> Iterator[_Source]:
    """Scores on validation images at the trials' ends; the last one is the objective beside another metric."""
    told = {trial.number: trial.user_attrs.get("metrics", {}) for trial in trials}
    images = certainty.images_of([_baseline(run), *told.values()])
    objective = spec.objective.metric
    for metric in sorted(printed, key=lambda name: name != objective):
        values = {number: metrics[metric] for number, metrics in told.items() if metric in metrics}
        yield _Source(metric, metric, "validation", _by_label(spec, trials, values), images)
    scores = {trial.number: trial.values[0] for trial in trials}
    yield _Source(next(iter(printed)), objective, "validation", _by_label(spec, trials, scores), images)


def _baseline(run: Run) -> Mapping[str, float]:
    try:
        return run.read_baseline() or {}
    except UserError:  # a damaged file, which `status` names
        return {}


def _by_label(spec: SearchSpec, trials: Sequence[FrozenTrial], values: Mapping[int, float]) -> Scores:
    """Values of trials, by their numbers, as scores of the table's points."""
    scores: dict[str, dict[int, float]] = {label: {} for label in spec.table}
    for trial in trials:
        if trial.number in values:
            scores[trial.params["point"]][trial.params["seed"]] = values[trial.number]
    return scores
