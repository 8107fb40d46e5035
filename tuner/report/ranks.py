"""Rank correlation between two columns of a table, with an interval over seeds. Formulas in float64."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tuner.report.certainty import LEVEL, Interval

FEWEST_ROWS = 3  # two rows are in order or not, which says nothing
REPEATS = 2000  # of the bootstrap


@dataclass(frozen=True)
class RankCorrelation:
    """How alike two orders of the same rows are.

    Attributes:
        rho: Spearman's coefficient, from -1 to 1; rows with equal numbers share the mean of their ranks.
        interval: 95 % by bootstrap over seeds; None with a single seed.
        rows: how many were compared.
        seeds: that all of them have in common.
    """

    rho: float
    interval: Interval | None
    rows: int
    seeds: int


def rank_correlation(ours: Sequence[Mapping[int, float]], theirs: Sequence[float]) -> RankCorrelation | None:
    """Spearman's correlation between the means of our rows and the numbers of another table.

    The interval is of what other seeds would have given: seeds are drawn with replacement, the same ones for all rows,
    for trials of one seed begin with the same student. That rows are few is no part of it.

    Args:
        ours: scores of each row by seed.
        theirs: a number for each row.

    Returns:
        None for fewer than three rows, and where all numbers of a column are equal.
    """
    if len(ours) < FEWEST_ROWS:
        return None
    import numpy as np  # here and below, for commands that need none of it
    from scipy.stats import rankdata

    ranks = rankdata(theirs)

    def correlations(means: np.ndarray) -> np.ndarray:
        """Of each row of `means`, float64 [repeats, rows]; NaN where all are equal."""
        one, other = (side - side.mean(-1, keepdims=True) for side in (rankdata(means, axis=-1), ranks))
        with np.errstate(invalid="ignore", divide="ignore"):
            return (one * other).sum(-1) / np.sqrt((one**2).sum(-1) * (other**2).sum(-1))

    rho = float(correlations(np.array([[sum(row.values()) / len(row) for row in ours]]))[0])
    if np.isnan(rho):
        return None
    seeds = sorted(set.intersection(*(set(row) for row in ours)))
    interval = None
    if len(seeds) > 1:
        scores = np.array([[row[seed] for seed in seeds] for row in ours])
        drawn = np.random.default_rng(0).integers(0, len(seeds), (REPEATS, len(seeds)))
        tail = 100 * (1 - LEVEL) / 2
        low, high = np.nanpercentile(correlations(scores[:, drawn].mean(-1).T), [tail, 100 - tail])
        interval = float(low), float(high)
    return RankCorrelation(rho, interval, len(ours), len(seeds))
