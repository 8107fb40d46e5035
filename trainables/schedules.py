"""Schedules: pure functions of the step. Nothing is counted here, so nothing can be forgotten by a checkpoint."""

import math


def cosine_share(step: int, total: int) -> float:
    """(1 + cos(pi step/total)) / 2: 1 at step 0, 1/2 half-way, 0 at `total` (Momentum² Teacher, eq. 8)."""
    return (1 + math.cos(math.pi * min(step, total) / total)) / 2 if total else 1.0


def value(kind: str, base: float, final: float, step: int, total: int) -> float:
    """Value at a 0-based `step` of `total` steps.

    Args:
        kind: "constant" (base throughout), "cosine" or "linear" (base at step 0, final at `total`).
        base: value at step 0.
        final: value at step `total`; a constant schedule does not look at it.
        step: index of the step, from 0.
        total: number of steps of the whole run.
    """
    if kind == "constant":
        return base
    share = cosine_share(step, total) if kind == "cosine" else 1 - min(step, total) / max(total, 1)
    return final + (base - final) * share


def warmed_up(kind: str, base: float, final: float, step: int, total: int, warmup: int) -> float:
    """A schedule behind a linear warm-up of `warmup` steps: base/warmup, 2 base/warmup, ..., base, then `value` over the rest."""
    if step < warmup:
        return base * (step + 1) / warmup
    return value(kind, base, final, step - warmup, total - warmup)
