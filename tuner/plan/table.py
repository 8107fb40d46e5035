"""The points of a table before they are trials: nested values as YAML has them, spelt out, combined, and completed."""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from trainables.config import trial as c
from trainables.config.errors import UserError
from trainables.config.settings import flat, section_keys

Values = dict[str, Any]


def combined(grid: Mapping[str, list[Any]]) -> dict[str, Values]:
    """All combinations of the values of a grid's keys, by labels made of them."""
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())] if grid else []
    return {", ".join(_named(key, value) for key, value in point.items()): point for point in points}


def _named(key: str, value: Any) -> str:
    return str(value) if key == "method.name" else f"{key.removeprefix('teacher.')} {value}"


def spelt_out(values: Mapping[str, Any], method: str | None, section: str = "") -> Values:
    """Sections as dotted keys: a point changes the keys that it names, and leaves the rest of their section as `trial` has it.

    A section `method` that has another name than the trial's `method` stays as it is: nothing of the trial's is left in it.
    """
    sections = section_keys(c.TrialConfig)
    keys: Values = {}
    for name, value in values.items():
        dotted = f"{section}{name}"
        if dotted == "method" and isinstance(value, str):  # a name is short for a section
            value = {"name": value}
        if (
            isinstance(value, Mapping)
            and dotted in sections
            and (dotted != "method" or value.get("name", method) == method)
        ):
            keys |= spelt_out(value, method, f"{dotted}.")
        else:
            keys[dotted] = value
    return keys


def completed(label: str, point: Values, given: Any, trial: c.TrialConfig) -> Values:
    """A point that names another method or another preset, with all that follows from it: heads, views, optimiser, ...

    What is written in `trial` stays, as far as it is no option of the trial's own method. Other points come back as they are.

    Args:
        label: of the point, for errors.
        point: what differs from `trial`.
        given: `trial` as it was written.
        trial: the same with all defaults.

    Raises:
        UserError: it makes no valid trial.
    """
    values, name = spelt_out(point, trial.method.name), trial.method.name
    method = (
        values["method"].get("name") if isinstance(values.get("method"), Mapping) else values.get("method.name", name)
    )
    if method == name and values.get("preset", trial.preset) == trial.preset:
        return point
    written = {**given} if isinstance(given, Mapping) else trial.plain()
    if method != name:
        written.pop("method", None)
    try:
        whole = c.changed(written, values).plain()
    except UserError as error:
        raise UserError("\n".join(f"point '{label}': {line}" for line in str(error).splitlines())) from None
    base = _leaves(trial.plain())
    found = {key: value for key, value in _leaves(whole).items() if base.get(key, ...) != value}
    for key in found.keys() - values.keys() - {"evaluation.protocols"}:
        if key.startswith("evaluation."):
            rule = f"comes with its {'method' if method != name else 'preset'}, but how trials are scored belongs to the search"
            raise UserError(f"point '{label}': {key} = {found[key]}: {rule}; set trial.{key} for all points")
    if method != name:
        found = {
            "method": whole["method"],
            **{key: value for key, value in found.items() if not key.startswith("method.")},
        }
    return found


def _leaves(plain: Values) -> Values:
    """What a trial says by dotted key; parts that have a momentum of their own are its own choice, so they are one value."""
    values = {key: value for key, value in flat(plain).items() if not _within(key, ["teacher.momenta"])}
    return values | {"teacher.momenta": plain["teacher"]["momenta"]}


def set_by_hand(content: Mapping[str, Any], settings: Mapping[str, Any]) -> Values:
    """Nested values of a search in which the keys of `trial` that the command line sets count in every point, whatever it says of them."""
    keys = {key.removeprefix("trial."): value for key, value in settings.items() if key.startswith("trial.")}
    changed: Values = {**content}
    if isinstance(points := content.get("points"), Mapping):
        changed["points"] = {
            label: _without(point, keys) if isinstance(point, Mapping) else point for label, point in points.items()
        }
    if isinstance(grid := content.get("grid"), Mapping):
        kept = {
            key: [keys[key]] if key in keys else values
            for key, values in grid.items()
            if key in keys or not _within(key, keys)
        }
        changed["grid"] = kept | {key: [value] for key, value in keys.items() if key not in kept and _within(key, kept)}
    return changed


def _without(point: Mapping[str, Any], keys: Mapping[str, Any]) -> Values:
    """A point less what is in some keys; where they are inside of what it sets, with them."""
    named = spelt_out(point, None)
    kept = {key: value for key, value in named.items() if not _within(key, keys)}
    return kept | {key: value for key, value in keys.items() if _within(key, kept)}


def _within(key: str, others: Iterable[str]) -> bool:
    """Whether a dotted key is one of some others, or inside of one."""
    return any(f"{key}.".startswith(f"{other}.") for other in others)
