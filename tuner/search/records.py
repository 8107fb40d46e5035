"""The core's records in the journal: how they are named, and whether they are whole.

A record is a system attribute of a trial. Its name has its sequence number, and its content says what the core has
heard of the trial and what it has decided.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial

RECORD = "core:"  # prefix of the attributes' names
_NAME = re.compile(rf"{RECORD}\d{{8,15}}")
_DECISIONS = ("continue", "stop", "pause")


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


def is_paused(trial: FrozenTrial) -> bool:
    """Returns whether a trial that has not ended is paused, by its last record that says so or otherwise."""
    telling = ("epoch", "paused", "promotion", "start", "lost")
    records = trial.system_attrs.items()
    told = (name for name, content in records if name.startswith(RECORD) and content["event"] in telling)
    if (last := max(told, default=None, key=lambda name: int(name.removeprefix(RECORD)))) is None:
        return False
    content = trial.system_attrs[last]
    return content["event"] == "paused" or content.get("decision") == "pause"


def was_stopped_as_asked(trial: FrozenTrial) -> bool:
    """Returns whether the user had a trial stopped, alone or with the whole search."""
    return any(name.startswith(RECORD) and content["event"] == "stop" for name, content in trial.system_attrs.items())


def fault_in(trials: Sequence[FrozenTrial]) -> str | None:
    """Returns what is wrong with the first record that the core cannot have written; None if all are whole."""
    for trial in trials:
        for name, content in trial.system_attrs.items():
            if name.startswith(RECORD) and not (_NAME.fullmatch(name) and _is_whole(content)):
                return f"trial {trial.number:04d} has a record that is none of ours: {name[:30]}"
    last = -1
    for sequence, trial, _ in records_of(trials):
        if sequence == last:
            return f"trial {trial.number:04d} has a record whose number was given before: {record_name(sequence)}"
        last = sequence
    return None


def _is_whole(content: object) -> bool:
    """Returns whether the content of a record has a known event with all of its fields, and valid optional ones."""
    if not isinstance(content, Mapping) or not isinstance(content.get("event"), str):
        return False
    fields = _FIELDS.get(content["event"])
    if fields is None or not all(name in content and valid(content[name]) for name, valid in fields.items()):
        return False
    return all(valid(content[name]) for name, valid in _OPTIONAL.get(content["event"], {}).items() if name in content)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _is_decision(value: object) -> bool:
    return isinstance(value, str) and value in _DECISIONS


def _is_truth(value: object) -> bool:
    return isinstance(value, bool)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_none(value: object) -> bool:
    return value is None


_FIELDS: dict[str, dict[str, Callable[[object], bool]]] = {
    "start": {"segment": _is_count, "width": _is_count},
    "epoch": {"epoch": _is_count, "score": _is_number, "decision": _is_decision},
    "end": {"failed": _is_truth},
    "lost": {"why": _is_text},
    "promotion": {},
    "wanted": {"pause": _is_truth},
    "paused": {},
    "stop": {},
    "resize": {"segment": _is_count, "width": _is_count},
}
"""The events of records, with the fields of each and what they may hold."""

_OPTIONAL: dict[str, dict[str, Callable[[object], bool]]] = {
    "start": {"fixed": _is_text},
    "epoch": {"workers": _is_count, "images_per_second": _is_positive, "seconds": _is_positive},
    "resize": {"slots": _is_count},
    "wanted": {"width": _is_none},  # of earlier versions
}
"""Fields that a record may lack, and what they may hold."""
