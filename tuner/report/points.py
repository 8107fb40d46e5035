"""Statistics of a table of points: means and spreads over seeds, differences, and the point that deserves a star."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial

from tuner.plan import points
from tuner.plan.spec import SearchSpec
from tuner.report import certainty
from tuner.report.certainty import Interval


@dataclass(frozen=True)
class PointView:
    """A point of a table. A field that needs more complete trials than there are is None.

    The fields, in their order, are what `status --json` prints of a point.

    Attributes:
        point: its label.
        scores: of its complete trials, by seed.
        mean: over the seeds.
        sd: standard deviation over the seeds (n - 1).
        interval: 95 % of the mean; of a single seed that of a score on the validation images.
        difference: mean difference from the table's first point, taken seed by seed.
        difference_sd: its standard deviation (n - 1).
        difference_interval: its 95 % interval.
    """

    point: str
    scores: Mapping[int, float]
    mean: float | None
    sd: float | None
    interval: Interval | None
    difference: float | None
    difference_sd: float | None
    difference_interval: Interval | None


def summary(spec: SearchSpec, trials: Sequence[FrozenTrial], images: int | None = None) -> tuple[PointView, ...]:
    """Summarises each point of a table.

    The difference from the first point is taken seed by seed, because trials of one seed begin with the same student
    and see the same images in the same order. Intervals are over seeds; of a single seed, over the validation `images`.
    """
    scores = points.scores(spec, trials)
    first = next(iter(scores.values()), {})
    return tuple(point_of(label, by_seed, first, spec.objective.metric, images) for label, by_seed in scores.items())


def point_of(
    label: str, scores: Mapping[int, float], first: Mapping[int, float], metric: str, images: int | None
) -> PointView:
    """Summarises one point.

    Args:
        label: of the point.
        scores: of its complete trials, by seed.
        first: the same of the table's first point.
        metric: the objective.
        images: the number of validation images, where it is known.
    """
    differences = [score - first[seed] for seed, score in scores.items() if seed in first and scores is not first]
    mean, spread = _mean_and_spread(list(scores.values()))
    difference, difference_spread = _mean_and_spread(differences)
    interval = certainty.of_mean(list(scores.values()), certainty.step_of(metric, images))
    if interval and certainty.is_share(metric):
        interval = max(0.0, interval[0]), min(1.0, interval[1])
    if len(scores) == 1:
        interval = certainty.of_score(mean, metric, images)
    return PointView(
        point=label,
        scores=dict(scores),
        mean=mean,
        sd=spread,
        interval=interval,
        difference=difference,
        difference_sd=difference_spread,
        difference_interval=None if scores is first else _apart(scores, first, metric, images),
    )


def _apart(
    scores: Mapping[int, float], others: Mapping[int, float], metric: str, images: int | None
) -> Interval | None:
    """The interval of the difference between two points, taken seed by seed.

    With a single common seed it is that of two scores on the same images.
    """
    pairs = [(score, others[seed]) for seed, score in scores.items() if seed in others]
    if len(pairs) == 1:
        return certainty.of_scores_apart(*pairs[0], metric, images)
    return certainty.of_mean([score - other for score, other in pairs], certainty.step_of(metric, images))


def star(
    rows: Sequence[PointView], seeds: int, metric: str, mode: str, images: int | None, untrained: float | None
) -> tuple[str | None, str]:
    """The point that deserves a star, and a sentence that says why, or why no point does.

    A point deserves it with the best mean over at least `certainty.FEWEST_SEEDS` seeds, above the untrained encoder,
    if the intervals of its differences from all other complete points leave nothing but improvement. The intervals are
    not corrected for the number of points.

    Args:
        rows: all points of the table.
        seeds: with how many seeds a point is complete.
        metric: the objective.
        mode: "max" or "min".
        images: the number of validation images, where it is known.
        untrained: score of the untrained encoder, where it is known.
    """
    complete = [(row.mean, row) for row in rows if len(row.scores) == seeds and row.mean is not None]
    if len(complete) < 2:
        return None, ""
    (mean, best), *others = sorted(complete, key=lambda pair: pair[0], reverse=mode == "max")
    name = f"'{best.point}' has the best mean"
    if untrained is not None and not certainty.better(mean, untrained, mode):
        return None, f"no star: {name}, and it is not {certainty.side(mode)} the untrained encoder"
    if seeds < certainty.FEWEST_SEEDS:
        few = f"too few seeds ({seeds}; with fewer than {certainty.FEWEST_SEEDS} luck looks like a difference)"
        return None, f"no star: {name}, but of {few}"
    for other_mean, other in others:
        interval = _apart(best.scores, other.scores, metric, images)
        if not certainty.clear(interval, mode):
            sure = f", 95 % {certainty.shown(interval, '+')}" if interval else ""
            apart = f"{mean - other_mean:+.4f}{sure}"
            return None, f"no star: {name}, within the noise of {seeds} seeds of '{other.point}' ({apart})"
    return best.point, "* better than every other point, by 95 % intervals of the differences over seeds"


def plus_minus(mean: float | None, spread: float | None, sign: str = "") -> str:
    """A mean with its spread, as far as they are known."""
    if mean is None:
        return ""
    return f"{mean:{sign}.4f}" + ("" if spread is None else f" ± {spread:.4f}")


def _mean_and_spread(values: Sequence[float]) -> tuple[float | None, float | None]:
    return statistics.fmean(values) if values else None, statistics.stdev(values) if len(values) > 1 else None
