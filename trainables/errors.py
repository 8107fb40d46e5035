"""The error of a user, told apart from our own bugs, and the nearest valid name that it offers."""

import difflib
import re
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError


class UserError(ValueError):
    """Something the user can mend. The text names key, value and rule; programs print it without a traceback."""


class TrialFailure(RuntimeError):
    """A trial that cannot go on because of its own configuration, such as one whose loss is no longer finite."""


class BrokenOff(RuntimeError):
    """A search or a full run that cannot go on now, by the fault of no trial: what was done is kept, and `tuner resume` goes on."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the closest valid name, or the list of valid names where nothing is close."""
    valid = sorted(valid)
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5) or [v for v in valid if v.split(".")[-1] == name.split(".")[-1]]
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; valid: {', '.join(valid)}"


def explain(error: ValidationError, known: dict[str, list[str]]) -> UserError:
    """Turns pydantic's report into one line a fault: key, value, rule, nearest valid name.

    Args:
        error: what pydantic raised.
        known: for each section's dotted name ("" is the top) the keys that it has.
    """
    lines = []
    for fault in error.errors():
        where, choice = _place([str(part) for part in fault["loc"] if not str(part).startswith("function-")], known)
        key, section = ".".join(where), ".".join(where[:-1])
        if fault["type"] == "extra_forbidden" and choice and where[-1] in known[section]:
            lines.append(f"{key}: '{choice}' has no such key")
        elif fault["type"] == "extra_forbidden":
            hint = nearest(where[-1], known[section]) if section in known else ""
            lines.append(f"{key}: unknown key{hint}")
        elif fault["type"] == "union_tag_invalid":
            names = [name.strip("' ") for name in fault["ctx"]["expected_tags"].split(",")]
            lines.append(f"{key}.name = {_short(fault['ctx']['tag'])}: no such name{nearest(fault['ctx']['tag'], names)}")
        elif fault["type"] == "missing":
            lines.append(f"{key}: this key is required")
        else:
            rule = fault["msg"].removeprefix("Value error, ")
            if re.match(r"\w+(\.\w+)+( =|:) ", rule):  # the rule of a whole section names its key, from some section on
                first = rule.split(".")[0]
                outer = where[: where.index(first)] if first in where else where
                lines.append(".".join([*outer, rule]))
            else:
                shown = f" = {_short(fault['input'])}" if where and not isinstance(fault["input"], dict) else ""
                lines.append(f"{key}{shown}: {rule}" if key else rule)
    return UserError("\n".join(lines))


def _place(where: list[str], known: dict[str, list[str]]) -> tuple[list[str], str]:
    """Where a fault is, and the name of the section that was chosen there from several, as of methods; "" where there was no choice."""
    kept: list[str] = []
    choice = ""
    for index, part in enumerate(where):
        section = ".".join(kept)
        if section in known and part not in known[section] and index + 1 < len(where):
            choice = part
        else:
            kept.append(part)
    return kept, choice


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
