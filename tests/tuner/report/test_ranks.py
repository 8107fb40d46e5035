"""Rank correlations against the plain formula, and their intervals over seeds."""

import itertools

import numpy as np
import pytest
from scipy.stats import spearmanr

from tuner.report.ranks import rank_correlation

OURS = [0.62, 0.43, 0.51, 0.54, 0.58, 0.01]
THEIRS = [62.01, 43.48, 51.41, 53.66, 58.12, 60.0]


def test_spearman_without_ties_is_the_textbooks() -> None:
    """1 - 6 sum d^2 / (n (n^2 - 1))."""
    squares = sum(
        (sorted(OURS).index(one) - sorted(THEIRS).index(other)) ** 2 for one, other in zip(OURS, THEIRS, strict=True)
    )
    found = rank_correlation([{0: score} for score in OURS], THEIRS)
    assert found is not None and found.rho == pytest.approx(1 - 6 * squares / (6 * 35), abs=1e-12)
    assert (found.rows, found.seeds, found.interval) == (6, 1, None)


def test_ties_share_a_rank() -> None:
    ours, theirs = [0.1, 0.1, 0.2, 0.3], [1.0, 2.0, 2.0, 0.5]
    found = rank_correlation([{0: score} for score in ours], theirs)
    assert found is not None and found.rho == pytest.approx(spearmanr(ours, theirs).statistic, abs=1e-12)


def test_nothing_can_be_said_of_two_rows_or_of_equal_numbers() -> None:
    assert rank_correlation([{0: 0.1}, {0: 0.2}], [1.0, 2.0]) is None
    assert rank_correlation([{0: 0.1}] * 3, [1.0, 2.0, 3.0]) is None
    assert rank_correlation([{0: 0.1}, {0: 0.2}, {0: 0.3}], [1.0, 1.0, 1.0]) is None


def test_the_interval_is_of_all_ways_to_draw_seeds() -> None:
    """Three seeds can be drawn in 27 ways; the percentiles over all of them, counted one by one."""
    rows = [[0.3, 0.1, 0.2], [0.25, 0.28, 0.35], [0.2, 0.5, 0.1], [0.45, 0.2, 0.4]]
    theirs = [1.0, 2.0, 3.0, 4.0]
    ways = [
        spearmanr([np.mean([row[seed] for seed in drawn]) for row in rows], theirs).statistic
        for drawn in itertools.product(range(3), repeat=3)
    ]
    found = rank_correlation([dict(enumerate(row)) for row in rows], theirs)
    assert found is not None and found.interval is not None and found.seeds == 3
    assert found.rho == pytest.approx(spearmanr(np.mean(rows, axis=1), theirs).statistic)
    assert found.interval == pytest.approx((min(ways), max(ways))), "each is drawn 1 in 27 times, more than 2.5 %"
    assert found == rank_correlation([dict(enumerate(row)) for row in rows], theirs), "drawn alike every time"


def test_seeds_that_a_row_lacks_do_not_enter_the_interval() -> None:
    rows = [{0: 0.1, 1: 0.2}, {0: 0.2, 1: 0.3}, {0: 0.5}]
    found = rank_correlation(rows, [1.0, 2.0, 3.0])
    assert found is not None and (found.seeds, found.interval, found.rho) == (1, None, 1.0)
