"""Durations of a run as text, such as "10 epochs", and their number of steps."""

import math
import re
from typing import NamedTuple

DURATION = re.compile(r"(\d+(?:\.\d+)?(?:e-?\d+)?) ?(steps?|epochs?|%)")


class Length(NamedTuple):
    """Length of a run: its optimiser steps, and those of an epoch."""

    total: int
    per_epoch: int


def steps_in(duration: str, run: Length) -> int:
    """Returns a duration ("500 steps", "10 epochs", "5 %" of the run) in steps, rounded up.

    Raises:
        ValueError: the text is no duration.
    """
    match = DURATION.fullmatch(duration)
    if match is None:
        raise ValueError("must be a duration, such as '500 steps', '10 epochs' or '5 %' of the run")
    amount, unit = float(match[1]), {"s": 1.0, "e": run.per_epoch, "%": run.total / 100}[match[2][0]]
    # rounded first: 0.3 epochs of 10 steps are 3 steps, although 0.3 has no exact binary fraction
    return math.ceil(round(amount * unit, 6))
