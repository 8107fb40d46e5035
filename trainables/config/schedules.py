"""Schedules: pure functions of the step. Nothing is counted here, so nothing can be forgotten by a checkpoint."""

import bisect
import math

from trainables.config.durations import Length, steps_in
from trainables.config.sections import Schedule


def at(schedule: Schedule, step: int, run: Length) -> float:
    """Returns the value of a configured schedule at a 0-based step.

    A warm-up of W steps rises linearly. With f the `warmup_factor`, its step k has base (f + (1 - f) (k + 1) / W). So
    it starts at base (f + (1 - f) / W), not at f base, and reaches `base` in its last step, W - 1. The schedule proper
    covers the rest of the run and begins with `base` again, so `base` occurs at W - 1 and at W. Most papers start at f
    base and reach `base` at W alone: they are one step later throughout the warm-up. Milestones of a "step" schedule
    count from the beginning of the run.
    """
    warmup = steps_in(schedule.warmup, run)
    if step < warmup:
        return schedule.base * (schedule.warmup_factor + (1 - schedule.warmup_factor) * (step + 1) / warmup)
    if schedule.kind == "step":
        milestones = sorted(steps_in(milestone, run) for milestone in schedule.milestones)
        return schedule.base * schedule.factor ** bisect.bisect_right(milestones, step)
    return value(schedule.kind, schedule.base, schedule.final, step - warmup, run.total - warmup)


def cosine_share(step: int, total: int) -> float:
    """(1 + cos(pi step/total)) / 2: 1 at step 0, 1/2 half-way, 0 at `total` (Momentum² Teacher, eq. 8)."""
    return (1 + math.cos(math.pi * min(step, total) / total)) / 2 if total else 1.0


def value(kind: str, base: float, final: float, step: int, total: int) -> float:
    """Returns the value at a 0-based `step` of `total` steps.

    Args:
        kind: "constant" (base throughout), "running_mean" (1/2, 2/3, 3/4, ..., at most base), or "cosine_7_16" (base
            times the cosine of an angle from 0 to 7/16 pi). From base at step 0 to final at `total` go "cosine",
            "linear", and "exponential", whose logarithm is linear.
        base: value at step 0.
        final: value at step `total`; a constant schedule ignores it.
        step: index of the step, from 0.
        total: number of steps that the schedule covers.
    """
    if kind == "constant":
        return base
    if kind == "running_mean":
        return min(1 - 1 / (step + 2), base)
    if kind == "cosine_7_16":
        return base * math.cos(7 / 16 * math.pi * min(step, total) / max(total, 1))
    share = cosine_share(step, total) if kind == "cosine" else 1 - min(step, total) / max(total, 1)
    if kind == "exponential":
        return final * (base / final) ** share
    return final + (base - final) * share
