"""Schedules against their formulas in float64."""

import math
from itertools import pairwise

import pytest

from trainables.config import schedules
from trainables.config import trial as c
from trainables.config.durations import Length, steps_in
from trainables.config.norms import Alpha
from trainables.config.teacher import Momentum


@pytest.mark.parametrize(("base", "final"), [(0.99, 1.0), (0.0, 1.0), (1.0, 0.0), (0.996, 0.9995)])
@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_invariant_06_base_middle_final_and_monotone(kind, base, final):
    """Fails when the cosine is laid over total + 1 steps."""
    total = 1000
    values = [schedules.value(kind, base, final, step, total) for step in range(total + 1)]
    assert values[0] == base
    assert values[total // 2] == pytest.approx((base + final) / 2, abs=1e-12)
    assert values[total] == pytest.approx(final, abs=1e-12)
    rising = [(after - before) * (1 if final > base else -1) for before, after in pairwise(values)]
    assert min(rising) >= 0 and max(rising) > 0


@pytest.mark.parametrize(("base", "final"), [(0.99, 1.0), (1.0, 1e-3), (0.5, 0.01)])
def test_invariant_06_an_exponential_schedule_has_the_geometric_mean_in_its_middle(base, final):
    """Fails when a parabola stands in its place."""
    total = 1000
    values = [schedules.value("exponential", base, final, step, total) for step in range(total + 1)]
    assert values[0] == pytest.approx(base, rel=1e-12) and values[total] == pytest.approx(final, rel=1e-12)
    assert values[total // 2] == pytest.approx((base * final) ** 0.5, rel=1e-12)
    assert [after / before for before, after in pairwise(values)] == pytest.approx(
        [(final / base) ** (1 / total)] * total, rel=1e-12
    )


def test_invariant_06_the_teachers_momentum_through_its_configuration():
    """Fails when the schedule ends an epoch early."""
    teacher, run = c.Teacher(), Length(400, 40)
    values = [schedules.at(teacher.momentum, step, run) for step in (0, 200, 400)]
    assert values == pytest.approx([0.99, 0.995, 1.0], abs=1e-12)


@pytest.mark.parametrize("step", [0, 1, 17, 38, 39])
def test_values_equal_their_formulas(step):
    base, final, total = 0.97, 0.2, 39
    assert schedules.value("cosine", base, final, step, total) == pytest.approx(
        final + (base - final) * (1 + math.cos(math.pi * step / total)) / 2
    )
    assert schedules.value("linear", base, final, step, total) == pytest.approx(base + (final - base) * step / total)
    assert schedules.value("constant", base, final, step, total) == base
    assert schedules.value("exponential", base, final, step, total) == pytest.approx(
        base * (final / base) ** (step / total)
    )


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


@pytest.mark.parametrize("kind", ["constant", "cosine", "linear", "exponential"])
def test_warm_up_rises_in_equal_steps_and_hands_over(kind):
    base, total, warmup = 0.4, 30, 8
    final = 0.01 if kind == "exponential" else 0.0
    schedule = c.LearningRate(kind=kind, base=base, final=final, warmup=f"{warmup} steps")
    values = [schedules.at(schedule, step, Length(total, 10)) for step in range(total)]
    assert values[:warmup] == pytest.approx([base * (step + 1) / warmup for step in range(warmup)])
    assert values[warmup:] == pytest.approx(
        [schedules.value(kind, base, final, step, total - warmup) for step in range(total - warmup)]
    )
    assert values[warmup - 1] == pytest.approx(base) and values[warmup] == pytest.approx(base)


@pytest.mark.parametrize("factor", [0.0, 0.001, 0.5])
def test_a_warm_up_starts_one_step_above_its_factor_and_has_its_base_twice(factor):
    """As the docstring of `at` says: one step ahead of a recipe that starts at factor times base."""
    base, steps = 0.4, 5
    schedule = c.LearningRate(base=base, warmup=f"{steps} steps", warmup_factor=factor)
    values = [schedules.at(schedule, step, Length(50, 10)) for step in range(steps + 2)]
    assert values[0] == pytest.approx(base * (factor + (1 - factor) / steps), rel=1e-12)
    recipe = [base * (factor + (1 - factor) * step / steps) for step in range(steps + 1)]
    assert values[:steps] == pytest.approx(recipe[1:], rel=1e-12)
    assert values[steps - 1] == pytest.approx(base, rel=1e-12) and values[steps] == base > values[steps + 1]


def test_without_warm_up_the_first_step_has_the_base():
    assert schedules.at(c.LearningRate(base=0.4), 0, Length(10, 5)) == 0.4


def test_learning_rate_of_a_configuration():
    config = c.parse(
        {
            "optim": {"lr": {"base": 0.3, "final": 0.1, "warmup": "2 epochs", "kind": "linear"}},
            "train": {"epochs": 4, "batch_size": 64},
        }
    )
    run = c.length(config, 640)
    assert run == (40, 10)
    assert schedules.at(config.optim.lr, 4, run) == pytest.approx(0.3 * 5 / 20)
    assert schedules.at(config.optim.lr, 30, run) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("duration", "steps"),
    [
        ("500 steps", 500),
        ("1 step", 1),
        ("10 epochs", 70),
        ("1 epoch", 7),
        ("0.5 epochs", 4),
        ("5 %", 35),
        ("100 %", 700),
        ("0.1%", 1),
        ("0 steps", 0),
        ("1e-1 epochs", 1),
    ],
)
def test_durations_in_steps_rounded_up(duration, steps):
    """Of a run of 100 epochs of 7 steps."""
    assert steps_in(duration, Length(700, 7)) == steps


@pytest.mark.parametrize("tenths", range(1, 30))
def test_binary_fractions_do_not_round_a_duration_up(tenths):
    assert steps_in(f"{tenths / 10:g} epochs", Length(300, 10)) == tenths


@pytest.mark.parametrize(
    "duration", ["", "5", "steps", "-1 steps", "5 minutes", "5  steps", "five steps", "5 percent", "5 steps more"]
)
def test_what_is_no_duration(duration):
    with pytest.raises(ValueError, match="must be a duration"):
        steps_in(duration, Length(700, 7))


@pytest.mark.parametrize("milestones", [("3 epochs", "60 %"), ("60 %", "15 steps")])
def test_a_step_schedule_is_multiplied_at_each_milestone(milestones):
    """Whatever their order and unit; a milestone is the first step of the new value."""
    schedule = c.LearningRate(kind="step", base=0.4, factor=0.5, milestones=milestones)
    found = [schedules.at(schedule, step, Length(50, 5)) for step in range(50)]
    assert found == [0.4] * 15 + [0.2] * 15 + [0.1] * 20


def test_milestones_count_from_the_beginning_and_a_warm_up_begins_at_its_factor():
    schedule = c.LearningRate(kind="step", base=0.4, milestones=("2 epochs",), warmup="4 steps", warmup_factor=0.2)
    found = [schedules.at(schedule, step, Length(20, 5)) for step in range(20)]
    rising = [0.4 * (0.2 + 0.8 * (step + 1) / 4) for step in range(4)]
    assert found == pytest.approx(rising + [0.4] * 6 + [0.04] * 10)


def test_a_plain_number_is_the_base_and_a_plain_duration_counts_epochs():
    config = c.parse(
        {
            "teacher": {"momentum": 0.9, "norm": {"alpha": 0.3}},
            "optim": {"lr": {"base": 0.1, "warmup": 2}, "weight_decay": 0},
        }
    )
    assert config.teacher.momentum == Momentum(kind="constant", base=0.9), (
        "0 is a copy and 1 a frozen teacher, throughout"
    )
    assert config.teacher.norm.alpha == Alpha(kind="constant", base=0.3)
    assert config.optim.lr.warmup == "2 epochs" and config.optim.weight_decay.base == 0
