"""How sure a score is: 95 % intervals of scores on so many images, of means over seeds, and of differences. Pure formulas in float64."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from trainables.config.evaluation import METRICS

Interval = tuple[float, float]
LEVEL = 0.95
FEWEST_SEEDS = 3
"""With two seeds the t interval is 12.7 standard errors wide on each side, and two equal differences are no rare luck."""
NORMAL = statistics.NormalDist().inv_cdf((1 + LEVEL) / 2)


def is_share(metric: str) -> bool:
    """Whether a metric is the share of images that are classified right, so that its noise is binomial."""
    return metric in METRICS and metric.endswith(("_top1", "_top5"))


def of_share(share: float, images: int) -> Interval:
    """Wilson's score interval (1927) of a share of independent images; also right near 0 and 1, where the normal one is not."""
    z2 = NORMAL**2 / images
    middle = (share + z2 / 2) / (1 + z2)
    half = NORMAL / (1 + z2) * math.sqrt(share * (1 - share) / images + z2 / (4 * images))
    return max(0.0, middle - half), min(1.0, middle + half)


def of_difference(share: float, other: float, images: int) -> Interval:
    """Newcombe's interval (1998, method 10) of `share - other`, made of the two Wilson intervals.

    It takes the two scores as independent. Both are of the same images, and what is easy for one network mostly is for the other; so the
    interval is rather too wide than too narrow. A paired one would need the answers image by image, which a run does not keep.
    """
    (low, high), (other_low, other_high) = of_share(share, images), of_share(other, images)
    difference = share - other
    below = math.hypot(share - low, other_high - other)
    above = math.hypot(high - share, other - other_low)
    return difference - below, difference + above


def of_mean(values: Sequence[float], step: float = 0.0) -> Interval | None:
    """Student's t interval of the mean over seeds; None for fewer than two values, and for equal ones whose step is not known.

    Args:
        values: one for each seed: scores, or differences that were taken seed by seed.
        step: the smallest step of a value, such as one image. The standard deviation is not taken for less: equal scores of few images
            hide a spread that they cannot show.
    """
    spread = max(statistics.stdev(values), step) if len(values) > 1 else 0.0
    if not spread:
        return None
    from scipy.special import stdtrit  # here, for commands that need no interval

    mean, half = (
        statistics.fmean(values),
        float(stdtrit(len(values) - 1, (1 + LEVEL) / 2)) * spread / math.sqrt(len(values)),
    )
    return mean - half, mean + half


def of_score(score: float | None, metric: str, images: int | None) -> Interval | None:
    """The interval of one score; None where its metric is no share of images, or their number is not known (runs of older versions)."""
    return None if score is None or not images or not is_share(metric) else of_share(score, images)


def of_scores_apart(score: float, other: float, metric: str, images: int | None) -> Interval | None:
    """The interval of `score - other`; None where `of_score` has none."""
    return of_difference(score, other, images) if images and is_share(metric) else None


def step_of(metric: str, images: int | None) -> float:
    """The smallest step of a score: one image; 0 where it has none, or none is known."""
    return 1 / images if images and is_share(metric) else 0.0


def images_of(metrics: Sequence[Mapping[str, Any]]) -> int | None:
    """The number of validation images that metrics of a run tell; None where none does, as in runs of older versions."""
    return next((int(one["validation_images"]) for one in metrics if "validation_images" in one), None)


def clear(interval: Interval | None, mode: str) -> bool:
    """Whether the interval of a difference leaves nothing but improvement: "max" above 0, "min" below."""
    return interval is not None and (interval[0] > 0 if mode == "max" else interval[1] < 0)


def better(score: float, other: float, mode: str) -> bool:
    """Whether the first is better than the second."""
    return score > other if mode == "max" else score < other


def side(mode: str) -> str:
    """Where a better score lies."""
    return "above" if mode == "max" else "below"


def shown(interval: Interval | None, sign: str = "") -> str:
    """An interval as a table prints it; "" where there is none."""
    return "" if interval is None else f"{interval[0]:{sign}.4f} to {interval[1]:{sign}.4f}"
