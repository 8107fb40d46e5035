"""How sure a score is: 95 % intervals of scores, of means over seeds, and of differences. Pure formulas in float64."""

import math
import statistics
from collections.abc import Sequence

from trainables.config.evaluation import METRICS
from tuner.search.study import Metrics

Interval = tuple[float, float]
LEVEL = 0.95
FEWEST_SEEDS = 3
"""With two seeds the t interval reaches 12.7 standard errors to each side, and two differences are often equal."""
NORMAL = statistics.NormalDist().inv_cdf((1 + LEVEL) / 2)


def is_share(metric: str) -> bool:
    """Whether a metric is the share of images that are classified right, so that its noise is binomial."""
    return metric in METRICS and metric.endswith(("_top1", "_top5"))


def of_share(share: float, images: int) -> Interval:
    """Wilson's score interval (1927) of a share of independent images; unlike the normal one it holds near 0 and 1."""
    z2 = NORMAL**2 / images
    middle = (share + z2 / 2) / (1 + z2)
    half = NORMAL / (1 + z2) * math.sqrt(share * (1 - share) / images + z2 / (4 * images))
    return max(0.0, middle - half), min(1.0, middle + half)


def of_difference(share: float, other: float, images: int) -> Interval:
    """Newcombe's interval (1998, method 10) of `share - other`, made of the two Wilson intervals.

    It takes the two scores for independent. They are of the same images, and an image that is easy for one network is
    mostly easy for the other, so the interval is too wide rather than too narrow. A paired interval would need the
    answers image by image, which a run does not keep.
    """
    (low, high), (other_low, other_high) = of_share(share, images), of_share(other, images)
    difference = share - other
    below = math.hypot(share - low, other_high - other)
    above = math.hypot(high - share, other - other_low)
    return difference - below, difference + above


def of_mean(values: Sequence[float], step: float = 0.0) -> Interval | None:
    """Student's t interval of a mean over seeds; None for fewer than two values, and for equal values of unknown step.

    Args:
        values: one for each seed: scores, or differences that were taken seed by seed.
        step: the smallest step of a value, such as one image. The standard deviation counts for at least as much: equal
            scores on few images hide a spread that they cannot show.
    """
    spread = max(statistics.stdev(values), step) if len(values) > 1 else 0.0
    if not spread:
        return None
    from scipy.special import stdtrit  # here, for commands that need no interval

    mean = statistics.fmean(values)
    half = float(stdtrit(len(values) - 1, (1 + LEVEL) / 2)) * spread / math.sqrt(len(values))
    return mean - half, mean + half


def of_score(score: float | None, metric: str, images: int | None) -> Interval | None:
    """The interval of one score; None where its metric is no share of images, or their number is unknown."""
    return None if score is None or not images or not is_share(metric) else of_share(score, images)


def of_scores_apart(score: float, other: float, metric: str, images: int | None) -> Interval | None:
    """The interval of `score - other`; None where `of_score` has none."""
    return of_difference(score, other, images) if images and is_share(metric) else None


def step_of(metric: str, images: int | None) -> float:
    """The smallest step of a score, which is one image; 0 for a metric that is no share, or an unknown number."""
    return 1 / images if images and is_share(metric) else 0.0


def images_of(metrics: Sequence[Metrics]) -> int | None:
    """The number of validation images by the metrics of a run; None where none has it, as in runs of older versions."""
    return next((int(told["validation_images"]) for told in metrics if "validation_images" in told), None)


def clear(interval: Interval | None, mode: str) -> bool:
    """Whether the interval of a difference leaves nothing but improvement: above 0 for "max", below for "min"."""
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
