"""The core's records in the journal: how they are named, and whether they are whole.

A record is a system attribute of a trial. Its name has its sequence number, and its content says what the core has
heard of the trial and what it has decided.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial

RECORD = "core:"  # prefix of the attributes' names
_NAME = re.compile(rf"{RECORD}\d{{8,15}}")
_DECISIONS = ("continue", "stop", "pause", "resize")


def record_name(sequence: int) -> str:
    """Returns the name of the system attribute with a record."""
    return f"{RECORD}{sequence:08d}"


def records_of(trials: Sequence[FrozenTrial]) -> list[tuple[int, FrozenTrial, dict[str, Any]]]:
    """Returns the records of trials in their order: sequence number, trial, content."""
    noted = [
        (int(name.removeprefix(RECORD)), trial, content)
        for trial in trials
        for name, content in trial.system_attrs.items()
        if name.startswith(RECORD)
    ]
    return sorted(noted, key=lambda record: record[0])


def fault_in(trials: Sequence[FrozenTrial]) -> str | None:
    """Returns what is wrong with the first record that the core cannot have written; None if all are whole."""
    for trial in trials:
        for name, content in trial.system_attrs.items():
            if name.startswith(RECORD) and not (_NAME.fullmatch(name) and _is_whole(content)):
                return f"trial {trial.number:04d} has a record that is none of ours: {name[:30]}"
    last, widths = -1, dict[int, int | None]()  # by trial: the width that it was to go on with
    for sequence, trial, content in records_of(trials):
        if sequence == last:
            return f"trial {trial.number:04d} has a record whose number was given before: {record_name(sequence)}"
        last, event, resized = sequence, content["event"], content.get("decision") == "resize"
        if resized and widths.get(trial.number) is None:
            return f"trial {trial.number:04d} has a resize without a width: {record_name(sequence)}"
        if event == "wanted":
            widths[trial.number] = content["width"]
        elif event == "start" or resized:
            widths[trial.number] = None
    return None


def _is_whole(content: object) -> bool:
    """Returns whether the content of a record has a known event with all of its fields."""
    if not isinstance(content, Mapping) or not isinstance(content.get("event"), str):
        return False
    fields = _FIELDS.get(content["event"])
    return fields is not None and all(name in content and valid(content[name]) for name, valid in fields.items())


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_decision(value: object) -> bool:
    return isinstance(value, str) and value in _DECISIONS


def _is_truth(value: object) -> bool:
    return isinstance(value, bool)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_width(value: object) -> bool:
    return value is None or _is_count(value)


_FIELDS: dict[str, dict[str, Callable[[object], bool]]] = {
    "start": {"segment": _is_count, "width": _is_count},
    "epoch": {"epoch": _is_count, "score": _is_number, "decision": _is_decision},
    "end": {"failed": _is_truth},
    "lost": {"why": _is_text},
    "promotion": {},
    "wanted": {"pause": _is_truth, "width": _is_width},
}
"""The events of records, with the fields of each and what they may hold."""
