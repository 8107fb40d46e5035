"""Schedules against their formulas in float64."""

import math
from itertools import pairwise

import pytest

from trainables import config as c
from trainables import schedules


@pytest.mark.parametrize(("base", "final"), [(0.99, 1.0), (0.0, 1.0), (1.0, 0.0), (0.996, 0.9995)])
@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_invariant_06_base_middle_final_and_monotone(kind, base, final):
    total = 1000
    values = [schedules.value(kind, base, final, step, total) for step in range(total + 1)]
    assert values[0] == base
    assert values[total // 2] == pytest.approx((base + final) / 2, abs=1e-12)
    assert values[total] == pytest.approx(final, abs=1e-12)
    rising = [(after - before) * (1 if final > base else -1) for before, after in pairwise(values)]
    assert min(rising) >= 0 and max(rising) > 0


@pytest.mark.parametrize("step", [0, 1, 17, 38, 39])
def test_values_equal_their_formulas(step):
    base, final, total = 0.97, 0.2, 39
    assert schedules.value("cosine", base, final, step, total) == pytest.approx(
        final + (base - final) * (1 + math.cos(math.pi * step / total)) / 2
    )
    assert schedules.value("linear", base, final, step, total) == pytest.approx(base + (final - base) * step / total)
    assert schedules.value("constant", base, final, step, total) == base


def test_momentum_and_alpha_of_the_momentum_teacher():
    """1 - m_base cos01(k) and alpha_base cos01(k): eq. 8 with their defaults."""
    total, step = 400, 123
    share = (1 + math.cos(math.pi * step / total)) / 2
    assert schedules.value("cosine", 0.99, 1.0, step, total) == pytest.approx(1 - 0.01 * share, abs=1e-15)
    assert schedules.value("cosine", 1.0, 0.0, step, total) == pytest.approx(share, abs=1e-15)


def test_a_schedule_stays_at_its_end():
    assert schedules.value("cosine", 1.0, 0.25, 70, 50) == schedules.value("linear", 1.0, 0.25, 70, 50) == 0.25


def test_a_run_without_steps_has_a_value():
    assert [schedules.value(kind, 0.5, 1.0, 0, 0) for kind in ("constant", "cosine", "linear")] == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("kind", ["constant", "cosine", "linear"])
def test_warm_up_rises_in_equal_steps_and_hands_over(kind):
    base, total, warmup = 0.4, 30, 8
    schedule = c.LearningRate(kind=kind, base=base, warmup=f"{warmup} steps")
    values = [schedules.at(schedule, step, schedules.Length(total, 10)) for step in range(total)]
    assert values[:warmup] == pytest.approx([base * (step + 1) / warmup for step in range(warmup)])
    assert values[warmup:] == pytest.approx([schedules.value(kind, base, 0.0, step, total - warmup) for step in range(total - warmup)])
    assert values[warmup - 1] == pytest.approx(base) and values[warmup] == pytest.approx(base)


def test_without_warm_up_the_first_step_has_the_base():
    assert schedules.at(c.LearningRate(base=0.4), 0, schedules.Length(10, 5)) == 0.4


def test_learning_rate_of_a_configuration():
    config = c.parse(
        {"optim": {"lr": {"base": 0.3, "final": 0.1, "warmup": "2 epochs", "kind": "linear"}}, "train": {"epochs": 4, "batch_size": 64}}
    )
    run = c.length(config, 640)
    assert run == (40, 10)
    assert schedules.at(config.optim.lr, 4, run) == pytest.approx(0.3 * 5 / 20)
    assert schedules.at(config.optim.lr, 30, run) == pytest.approx(0.2)
