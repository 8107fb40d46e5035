"""Errors that a user can mend, as opposed to our own bugs, and the nearest valid names that their messages offer."""

import difflib
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

NAMES_LISTED = 5  # names that a message offers
LINES_LISTED = 20  # faults that one error lists
LONGEST_SHOWN = 80  # characters of a value, and of a key, in a message


class UserError(ValueError):
    """Something the user can mend. The text names key, value and rule; programs print it without a traceback."""


class TrialFailure(RuntimeError):
    """A trial that cannot go on because of its own configuration, such as one whose loss is no longer finite."""


class BrokenOff(RuntimeError):
    """A search or a full run that cannot go on now, by no fault of a trial. Its work is kept for `tuner resume`."""


def nearest(name: object, valid: Iterable[str]) -> str:
    """Returns `"; did you mean 'x'?"` for the closest valid name.

    Where no name is close, it returns the valid names, or of many the five nearest.
    """
    wanted, names = str(name)[:LONGEST_SHOWN], sorted(valid)
    # the last part of a key says more than its spelling
    same = [v for v in names if v.split(".")[-1] == wanted.split(".")[-1]]
    close = difflib.get_close_matches(wanted, same, n=1, cutoff=0) or difflib.get_close_matches(
        wanted, names, n=1, cutoff=0.5
    )
    if close:
        return f"; did you mean '{close[0]}'?"
    if len(names) <= NAMES_LISTED:
        return f"; valid: {_listed(names)}"
    return f"; nearest of {len(names)}: {_listed(difflib.get_close_matches(wanted, names, n=NAMES_LISTED, cutoff=0))}"


def _listed(names: Sequence[str]) -> str:
    """Returns names in a row, in quotes where one of them, such as a label, has a comma of its own."""
    return ", ".join(f"'{name}'" for name in names) if any("," in name for name in names) else ", ".join(names)


class _Shown(reprlib.Repr):
    """repr() that never makes more text than a message needs."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxdict, self.maxlist, self.maxtuple, self.maxset = 4, 8, 8, 8, 8
        self.maxstring = self.maxother = LONGEST_SHOWN

    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if x.bit_length() < 256 else f"a number of {x.bit_length()} bits"


def shown(value: object) -> str:
    """Returns a value as a message shows it: on one line, and short, however long the value is."""
    text = _Shown().repr(value)
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 3] + "..."


def shown_name(name: object) -> str:
    """Returns a key or a name as a message shows it: without quotes where it is short and printable, and not empty."""
    text = str(name) if isinstance(name, str) else shown(name)
    return text if text and len(text) <= LONGEST_SHOWN and text.isprintable() else shown(text)


def printable(text: str) -> str:
    """Returns a text with its control characters escaped, so that no value of a user steers the terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def one_line(error: BaseException, longest: int = 300) -> str:
    """Returns the text of another library's error, on one line and not too long."""
    text = " ".join(str(error).split())
    return text if len(text) <= longest else text[: longest - 3] + "..."


def from_all(lines: Sequence[str]) -> UserError:
    """Returns an error with a line for each fault; of many faults, the first lines and the number of the others."""
    kept = [
        *lines[:LINES_LISTED],
        *([f"... and {len(lines) - LINES_LISTED} more faults"] if len(lines) > LINES_LISTED else []),
    ]
    return UserError("\n".join(kept))


def explain(error: ValidationError, known: Mapping[str, Sequence[str]]) -> UserError:
    """Turns pydantic's report into one line a fault: key, value, rule, nearest valid name.

    Args:
        error: what pydantic raised.
        known: for each section's dotted name ("" is the top) the keys that it has.
    """
    return from_all(list(dict.fromkeys(_line(fault, known) for fault in error.errors(include_url=False))))


def _line(fault: Any, known: Mapping[str, Sequence[str]]) -> str:
    """Returns one fault of pydantic's report in our words."""
    where, choice = _place(
        [str(part) for part in fault["loc"] if not str(part).startswith(("function-", "[key]"))], known
    )
    key, section, value = ".".join(map(shown_name, where)), ".".join(where[:-1]), fault["input"]
    if fault["type"] == "extra_forbidden":
        if choice and where[-1] in known[section]:
            return f"{key}: '{choice}' has no such key"
        return f"{key}: unknown key{nearest(where[-1], known[section]) if section in known else ''}"
    if fault["type"] == "union_tag_invalid":
        names = [name.strip("' ") for name in fault["ctx"]["expected_tags"].split(",")]
        return f"{key}.name = {shown(fault['ctx']['tag'])}: no such name{nearest(fault['ctx']['tag'], names)}"
    rule = _rule(fault, known.get(".".join(where), ()))
    if re.match(r"\w+(\.\w+)+( =|:) ", rule):  # the rule of a whole section names its key, from some section on
        first = rule.split(".")[0]
        return ".".join([*(where[: where.index(first)] if first in where else where), rule])
    if (
        fault["type"] == "missing"
        or value is None
        or not where
        or (isinstance(value, Mapping) and fault["type"] != "literal_error")
    ):
        return f"{key}: {rule}" if key else rule
    return f"{key} = {shown(value)}: {rule}"


def _rule(fault: Any, keys: Sequence[str]) -> str:
    """Returns the rule that a value breaks. `keys` are those of the section that belongs in its place, if any."""
    kind, context = fault["type"], fault.get("ctx", {})
    if kind == "missing":
        return "this key is required"
    if kind == "invalid_key" or fault["loc"][-1:] == ("[key]",):
        return "a key must be text; put it in quotes"
    if kind in ("model_type", "model_attributes_type", "dict_type", "mapping_type"):
        listed = f": {', '.join(keys[:NAMES_LISTED])}{', ...' if len(keys) > NAMES_LISTED else ''}" if keys else ""
        return f"must hold keys and values{listed}"
    if fault["input"] is None and kind != "value_error":
        return "has no value; leave the key out for its default"
    if kind == "path_type":
        return "must be a path"
    if kind in ("tuple_type", "list_type"):
        return "must be a list"
    if kind in ("too_long", "too_short", "string_too_long"):
        bound = "at most" if "long" in kind else "at least"
        limit, unit = (
            context.get("max_length", context.get("min_length")),
            ("character", "characters") if "string" in kind else ("entry", "entries"),
        )
        return f"must have {bound} {limit} {unit[limit != 1]}"
    rule = fault["msg"].removeprefix("Value error, ").replace("Input should be", "must be").replace("Input is", "is")
    rule = re.sub(r", unable to parse string as an? \w+", "", rule)
    rule = re.sub(r"\d{16,}", lambda digits: f"{float(digits[0]):g}", rule)
    if kind == "literal_error" and isinstance(fault["input"], str):
        close = nearest(fault["input"], re.findall(r"'([^']*)'", context["expected"]))
        rule += close if close.startswith("; did") else ""
    return rule


def _place(where: list[str], known: Mapping[str, Sequence[str]]) -> tuple[list[str], str]:
    """Returns the place of a fault, and the name of the section there if it is one of several, such as a method's.

    The name is "" where there is only one section.
    """
    kept: list[str] = []
    choice = ""
    for index, part in enumerate(where):
        section = ".".join(kept)
        if section in known and part not in known[section] and index + 1 < len(where):
            choice = part
        else:
            kept.append(part)
    return kept, choice
