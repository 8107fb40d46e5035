"""One file a paper, or a setting of it: recipes by method, in nested keys of a trial; `all` is what they have in common.

A file may be `like` another one, and then holds only what differs; it offers the methods that it names itself.

Durations in epochs, such as warm-ups and milestones, are those of the paper's own length, and of any longer run. In a shorter run they keep
their share of the paper's length: a warm-up of 10 epochs of 200 is 5 % of a run of 6.
"""

import functools
import re
from pathlib import Path
from typing import Any

from trainables.config.errors import nearest
from trainables.config.settings import read_yaml

_FOLDER = Path(__file__).parent / "presets"


@functools.cache
def names() -> tuple[str, ...]:
    """Returns the names of the presets, sorted."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


def known(name: str) -> str:
    """The name, if there is such a preset; ValueError otherwise."""
    if name not in names():
        raise ValueError(f"no such name{nearest(name, names())}")
    return name


def recipe(name: Any, method: str) -> list[dict[str, Any]]:
    """What a preset says of a method: nested values, later ones above earlier ones. Nothing where there is no such preset."""
    if name not in names():
        return []
    content = _read(name)
    return [*recipe(content.get("like"), method), *(content[key] for key in ("all", method) if key in content)]


def shortened(recipe: Any, epochs: int) -> Any:
    """A recipe for a run that is shorter than the paper's `epochs`: durations in epochs are shares of the run."""
    if isinstance(recipe, dict):
        return {key: shortened(value, epochs) for key, value in recipe.items()}
    if isinstance(recipe, list):
        return [shortened(value, epochs) for value in recipe]
    found = re.fullmatch(r"(\d+) epochs?", recipe) if isinstance(recipe, str) else None
    return f"{100 * int(found[1]) / epochs:g} %" if found else recipe


def methods(name: str) -> list[str]:
    """Methods that a preset has a recipe for."""
    return [key for key in _read(name) if key not in ("all", "like")]


@functools.cache
def _read(name: str) -> dict[str, Any]:
    return read_yaml(_FOLDER / f"{name}.yaml")
