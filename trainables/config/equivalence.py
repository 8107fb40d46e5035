"""The equivalence rule: batch x k, learning rate x k, (1 - momentum) x k (Momentum² Teacher, sec. 4.2).

A Spatial Ensemble without momentum ("se") keeps a share p of its units instead, so there (1 - p) is scaled.
"""

import math
from typing import Any

from trainables.config import trial as c
from trainables.config.errors import UserError
from trainables.config.sections import Schedule
from trainables.config.settings import flat


def scaled_batch(config: c.TrialConfig, batch_size: int) -> c.TrialConfig:
    """Returns the same training at another batch size.

    A trial with a `train.base_batch` follows its batch by itself, so only the batch size is changed.

    Raises:
        UserError: the batch is no multiple of the shard, or the teacher's share of the student would exceed 1.
    """
    size = {"train.batch_size": batch_size}
    if config.train.base_batch:
        return c.changed(config.plain(), size)
    return c.changed(config.plain(), _rates(config, batch_size / config.train.batch_size, strict=True) | size)


def scaled(config: c.TrialConfig) -> c.TrialConfig:
    """Returns the trial as it is run: with a `train.base_batch`, its rates are those that the rule gives for its batch.

    A teacher's share of the student that would exceed 1 becomes 1, which is a copy. So the rule holds for every
    proposal of a search.
    """
    values = scaled_values(config)
    return c.changed(config.plain(), values) if values else config


def scaled_values(config: c.TrialConfig) -> dict[str, Any]:
    """Returns the dotted keys and values that `scaled` sets; none where the rule changes nothing."""
    base = config.train.base_batch
    if base is None or base == config.train.batch_size:
        return {}
    return _rates(config, config.train.batch_size / base, strict=False) | {"train.base_batch": None}


def line(before: c.TrialConfig, after: c.TrialConfig) -> str:
    """Returns what the rule changes between two batches, for a terminal or a log.

    Args:
        before: a trial at one batch; what its `base_batch` says is applied.
        after: the same at another.
    """
    before, after = scaled(before), scaled(after)
    k = after.train.batch_size / before.train.batch_size
    rates = {
        "learning rate": (before.optim.lr, after.optim.lr),
        "teacher momentum": (before.teacher.momentum, after.teacher.momentum),
        "preserving probability": (before.teacher.smoothing.p, after.teacher.smoothing.p),
        **{f"momentum of {part}": (own, after.teacher.momenta[part]) for part, own in before.teacher.momenta.items()},
    }
    moves = [
        f"{name} {old.base:g} -> {new.base:g}"
        for name, (old, new) in rates.items()
        if not math.isclose(old.base, new.base)
    ]
    batch = f"batch {before.train.batch_size} -> {after.train.batch_size} (x{k:g})"
    return (
        f"equivalence rule: {', '.join([batch, *moves])}, {after.train.num_shards} shards of {after.train.shard_size}"
    )


def own_line(config: c.TrialConfig, after: c.TrialConfig | None = None) -> str | None:
    """Returns the same for a trial that follows its `train.base_batch`; None where the rule changes nothing.

    Args:
        config: of the trial.
        after: the trial as it is run, if it is known already.
    """
    base = config.train.base_batch
    if base in (None, config.train.batch_size):
        return None
    there = config.model_copy(
        update={"train": config.train.model_copy(update={"batch_size": base, "base_batch": None})}
    )
    return line(there, after or config)


def _rates(config: c.TrialConfig, k: float, strict: bool) -> dict[str, Any]:
    """Returns what changes at k times the batch, as dotted keys and values."""
    teacher = config.teacher
    rates: dict[str, Any] = {"optim.lr.base": config.optim.lr.base * k, "optim.lr.final": config.optim.lr.final * k}
    rates["online_probe.lr"] = config.online_probe.lr * k
    faster = {key: _faster(kept, k, key, strict) for key, kept in teacher.follow_the_batch.items()}
    momenta = {key.removeprefix("momenta."): faster.pop(key) for key in list(faster) if key.startswith("momenta.")}
    rates |= flat(faster, "teacher.")
    if momenta:  # parts are no keys of a trial, so `teacher.momenta` is set as a whole
        rates["teacher.momenta"] = {
            part: teacher.momenta[part].model_dump() | scaled for part, scaled in momenta.items()
        }
    return rates


def _faster(kept: Schedule, k: float, name: str, strict: bool) -> dict[str, float]:
    """Returns a keep-rate whose complement is k times as large. A keep-rate of 0, a copy, stays 0."""
    fields = ["base"] if kept.kind == "constant" else ["base", "final"]
    rates = {}
    for field in fields:
        rate = getattr(kept, field)
        rates[field] = round(1 - (1 - rate) * k, 12) if rate > 0 else 0.0
        if rates[field] < 0 and strict:
            key = f"teacher.{name}.{field} = {rate}"
            raise UserError(f"{key}: cannot follow to {k:g} times the batch, its share of the student would exceed 1")
        rates[field] = max(0.0, rates[field])
    if not kept.scales:
        raise UserError(
            f"teacher.{name}: the equivalence rule needs a constant, cosine or linear schedule without a warm-up"
        )
    return rates
