"""Rank correlation between two columns of a table, its interval over rows and its spread over seeds, in float64."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tuner.report.certainty import NORMAL, Interval

FEWEST_ROWS = 3  # two rows are in order or not, which says nothing
FEWEST_FOR_INTERVAL = 4  # rows


@dataclass(frozen=True)
class RankCorrelation:
    """How alike two orders of the same rows are.

    Attributes:
        rho: Spearman's coefficient, from -1 to 1; rows with equal numbers share the mean of their ranks.
        interval: 95 % over rows, see `interval_of`; None where there is none.
        rows: how many were compared.
        seeds: how many all rows have in common.
        of_seeds: the coefficient of each of these seeds alone, in their order; a seed that gave all rows equal scores
            has none.
    """

    rho: float
    interval: Interval | None
    rows: int
    seeds: int
    of_seeds: tuple[float, ...]


def rank_correlation(ours: Sequence[Mapping[int, float]], theirs: Sequence[float]) -> RankCorrelation | None:
    """Spearman's correlation between the means of our rows and the numbers of another table.

    Args:
        ours: scores of each row by seed; the mean is over all seeds that the row has.
        theirs: a number for each row.

    Returns:
        None for fewer than three rows, and where all numbers of a column are equal.
    """
    if len(ours) < FEWEST_ROWS:
        return None
    rho = _spearman([statistics.fmean(row.values()) for row in ours], theirs)
    if rho is None:
        return None
    seeds = sorted(set.intersection(*(set(row) for row in ours)))
    alone = (_spearman([row[seed] for row in ours], theirs) for seed in seeds)
    of_seeds = tuple(one for one in alone if one is not None)
    return RankCorrelation(rho, interval_of(rho, len(ours)), len(ours), len(seeds), of_seeds)


def interval_of(rho: float, rows: int) -> Interval | None:
    """The 95 % interval of Spearman's coefficient by Fisher's z, with the standard error of Bonett and Wright (2000).

    That error is sqrt((1 + rho^2 / 2) / (n - 3)) for n rows ("Sample size requirements for estimating Pearson, Kendall
    and Spearman correlations", Psychometrika 65, 23-28). The rows are taken as drawn at random from all rows that a
    paper might have printed; our scores are taken as they are. How much a seed changes is seen in `of_seeds`.

    Returns:
        None for fewer than four rows, where n - 3 is 0, and for -1 and 1, of which z is infinite.
    """
    if rows < FEWEST_FOR_INTERVAL or abs(rho) >= 1:
        return None
    middle, half = math.atanh(rho), NORMAL * math.sqrt((1 + rho**2 / 2) / (rows - 3))
    return math.tanh(middle - half), math.tanh(middle + half)


def _spearman(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Spearman's coefficient; None where all numbers of a column are equal."""
    from scipy.stats import rankdata  # here, for commands that need none of it

    first, second = (ranks - ranks.mean() for ranks in (rankdata(one), rankdata(other)))
    spread = math.sqrt((first**2).sum() * (second**2).sum())
    return float((first * second).sum()) / spread if spread else None
