"""The points of a table before they are trials: nested values from YAML are spelt out, combined and completed."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

from trainables.config import trial as c
from trainables.config.errors import UserError
from trainables.config.settings import flat, section_keys
from trainables.data import initial
from tuner.plan.paper import of_rows

Values = dict[str, object]
MOST_POINTS = 500


def combined(grid: Mapping[str, Sequence[object]]) -> dict[str, Values]:
    """All combinations of the values of a grid, by labels that name them."""
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())] if grid else []
    return {", ".join(_named(key, value) for key, value in point.items()): point for point in points}


def _countable(grid: Mapping[str, object]) -> bool:
    """Whether a grid, as YAML has it, can be listed."""
    values = [held for held in grid.values() if isinstance(held, list)]
    return len(values) == len(grid) and math.prod(map(len, values)) <= MOST_POINTS


def _named(key: str, value: object) -> str:
    return str(value) if key == "method.name" else f"{key.removeprefix('teacher.')} {value}"


def spelt_out(values: Mapping[str, object], method: str | None, section: str = "") -> Values:
    """Spells sections out as dotted keys: a point changes the keys that it names and no others of their sections.

    A section `method` with another name than the trial's `method` stays a section: it replaces the trial's as a whole.
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


def begun_with(point: Values, method: str) -> Values:
    """Returns a point with the hash of the file that it names to begin with (`init`); others come back as they are.

    Args:
        point: what differs from the trial.
        method: of the trial.

    Raises:
        UserError: there is no such file.
    """
    values = spelt_out(point, method)
    path = values.get("init.path", values.get("init"))
    if path is None or values.get("init.sha256") is not None:
        return point
    return {**values, "init.sha256": initial.content(c.changed({}, {"init.path": path}).init)}


def completed(label: str, point: Values, given: object, trial: c.TrialConfig) -> Values:
    """Completes a point that names another method or preset by what follows from it: heads, views, optimiser, ...

    What is written in `trial` stays, unless it is an option of its own method. Other points come back as they are.

    Args:
        label: of the point, for errors.
        point: what differs from `trial`.
        given: `trial` as it was written.
        trial: the same with all defaults.

    Raises:
        UserError: it makes no valid trial.
    """
    values, name = spelt_out(point, trial.method.name), trial.method.name
    section = values.get("method")
    method = section.get("name") if isinstance(section, Mapping) else values.get("method.name", name)
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
            source = "method" if method != name else "preset"
            rule = f"comes with its {source}, but how trials are scored belongs to the search"
            raise UserError(f"point '{label}': {key} = {found[key]}: {rule}; set trial.{key} for all points")
    if method != name:
        found = {
            "method": whole["method"],
            **{key: value for key, value in found.items() if not key.startswith("method.")},
        }
    return found


def _leaves(plain: Values) -> Values:
    """The values of a trial by dotted key; `teacher.momenta` is one value, because its keys are the trial's choice."""
    momenta, teacher = "teacher.momenta", plain["teacher"]
    assert isinstance(teacher, Mapping)
    values = {key: value for key, value in flat(plain).items() if not _within(key, [momenta])}
    return values | {momenta: teacher["momenta"]}


def set_by_hand(content: Mapping[str, object], settings: Mapping[str, object]) -> Values:
    """Returns `content` with the keys of `trial` that the command line sets counting in every point of its table.

    Where the points themselves are others then, the numbers of a paper for points that are gone are dropped.

    Args:
        content: nested values of a search, as its file has them.
        settings: of the command line, by dotted key.
    """
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
        inside = {key: [value] for key, value in keys.items() if key not in kept and _within(key, kept)}
        changed["grid"] = kept | inside
    others = changed.get("grid") != content.get("grid") or not {"points", "grid"}.isdisjoint(settings)
    if "paper" in content and others and (labels := _labels(changed)) is not None:
        changed["paper"] = of_rows(content["paper"], labels)
    return changed


def _labels(content: Mapping[str, object]) -> list[str] | None:
    """The labels of a table's points, as YAML has the table; None where they cannot be listed."""
    points, grid = content.get("points") or {}, content.get("grid") or {}
    if not isinstance(points, Mapping) or not isinstance(grid, Mapping) or not _countable(grid):
        return None
    return [*map(str, points), *combined(grid)]


def _without(point: Mapping[str, object], keys: Mapping[str, object]) -> Values:
    """Returns `point` without `keys`, but with those of them that lie inside a section which it sets as a whole."""
    named = spelt_out(point, None)
    kept = {key: value for key, value in named.items() if not _within(key, keys)}
    return kept | {key: value for key, value in keys.items() if _within(key, kept)}


def _within(key: str, others: Iterable[str]) -> bool:
    """Whether a dotted key is one of `others`, or lies inside one of them."""
    return any(f"{key}.".startswith(f"{other}.") for other in others)
