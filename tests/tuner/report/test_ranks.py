"""Rank correlations against the plain formula, their intervals over rows, and their spread over seeds."""

import numpy as np
import pytest
from scipy.stats import norm, spearmanr

from tuner.report.ranks import interval_of, rank_correlation

OURS = [0.62, 0.43, 0.51, 0.54, 0.58, 0.01]
THEIRS = [62.01, 43.48, 51.41, 53.66, 58.12, 60.0]


def test_spearman_without_ties_is_the_textbooks() -> None:
    """1 - 6 sum d^2 / (n (n^2 - 1))."""
    squares = sum(
        (sorted(OURS).index(one) - sorted(THEIRS).index(other)) ** 2 for one, other in zip(OURS, THEIRS, strict=True)
    )
    found = rank_correlation([{0: score} for score in OURS], THEIRS)
    assert found is not None and found.rho == pytest.approx(1 - 6 * squares / (6 * 35), abs=1e-12)
    assert (found.rows, found.seeds, found.of_seeds) == (6, 1, (found.rho,))
    assert found.interval is not None, "one seed is enough for an interval over rows"


def test_ties_share_a_rank() -> None:
    ours, theirs = [0.1, 0.1, 0.2, 0.3], [1.0, 2.0, 2.0, 0.5]
    found = rank_correlation([{0: score} for score in ours], theirs)
    assert found is not None and found.rho == pytest.approx(spearmanr(ours, theirs).statistic, abs=1e-12)


def test_nothing_can_be_said_of_two_rows_or_of_equal_numbers() -> None:
    assert rank_correlation([{0: 0.1}, {0: 0.2}], [1.0, 2.0]) is None
    assert rank_correlation([{0: 0.1}] * 3, [1.0, 2.0, 3.0]) is None
    assert rank_correlation([{0: 0.1}, {0: 0.2}, {0: 0.3}], [1.0, 1.0, 1.0]) is None


def test_the_interval_is_bonetts_and_wrights() -> None:
    """Fisher's z of rho, and 1.96 times sqrt((1 + rho^2 / 2) / (n - 3)) to each side."""
    for rho, rows in ((0.613, 12), (-0.2, 4), (0.0, 30), (0.99, 5)):
        z, error = np.arctanh(rho), np.sqrt((1 + rho**2 / 2) / (rows - 3))
        assert interval_of(rho, rows) == pytest.approx(tuple(np.tanh(z + norm.ppf([0.025, 0.975]) * error)), abs=1e-12)


@pytest.mark.parametrize(("rho", "rows"), [(0.5, 3), (1.0, 12), (-1.0, 12)])
def test_no_interval_of_three_rows_or_of_one_order(rho: float, rows: int) -> None:
    assert interval_of(rho, rows) is None


@pytest.mark.parametrize("correlation", [0.0, 0.7])
@pytest.mark.parametrize("rows", [6, 12])
def test_the_interval_covers_the_limit_in_95_of_100_tables(correlation: float, rows: int) -> None:
    """Of normal rows the limit is 6 / pi * asin(correlation / 2)."""
    made = np.random.default_rng(0)
    limit, tables, covered = 6 / np.pi * np.arcsin(correlation / 2), 400, 0
    for _ in range(tables):
        theirs = made.normal(size=rows)
        ours = correlation * theirs + np.sqrt(1 - correlation**2) * made.normal(size=rows)
        found = rank_correlation([{0: score} for score in ours.tolist()], theirs.tolist())
        assert found is not None
        covered += found.interval is None or found.interval[0] <= limit <= found.interval[1]
    assert covered / tables > 0.93


def test_rho_is_of_means_and_beside_it_stands_each_seed_alone() -> None:
    """With unequal numbers of seeds too, rho lies in its own interval."""
    rows = [{0: 0.3, 1: 0.1, 2: 0.9}, {0: 0.25, 1: 0.28, 2: 0.35}, {0: 0.2, 1: 0.5}, {0: 0.45, 1: 0.2, 5: 0.4}]
    theirs = [1.0, 2.0, 3.0, 4.0]
    found = rank_correlation(rows, theirs)
    assert found is not None and found.seeds == 2, "those that all rows have"
    assert found.rho == pytest.approx(spearmanr([np.mean([*row.values()]) for row in rows], theirs).statistic)
    alone = [spearmanr([row[seed] for row in rows], theirs).statistic for seed in (0, 1)]
    assert found.of_seeds == pytest.approx(alone, abs=1e-12)
    assert found.interval is not None and found.interval[0] < found.rho < found.interval[1]


def test_seeds_that_not_all_rows_have_and_seeds_without_an_order() -> None:
    found = rank_correlation([{0: 0.1, 1: 0.2}, {0: 0.2, 1: 0.3}, {0: 0.5}], [1.0, 2.0, 3.0])
    assert found is not None and (found.seeds, found.of_seeds, found.rho) == (1, (1.0,), 1.0)
    apart = rank_correlation([{0: 0.1}, {1: 0.2}, {2: 0.3}, {3: 0.25}], [1.0, 2.0, 3.0, 4.0])
    assert apart is not None and (apart.seeds, apart.of_seeds) == (0, ()) and apart.interval is not None
    equal = rank_correlation([{0: 0.1, 1: 0.2}, {0: 0.1, 1: 0.3}, {0: 0.1, 1: 0.5}], [1.0, 2.0, 3.0])
    assert equal is not None and (equal.seeds, equal.of_seeds) == (2, (1.0,))
