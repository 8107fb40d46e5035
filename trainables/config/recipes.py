"""Reads presets: a file of `presets/` for each paper, or for a setting of it, with a recipe for each method.

A recipe holds nested keys of a trial; `all` holds what the recipes of a file have in common. A file that is `like`
another one holds only what differs, and offers only the methods that it names itself.

Durations in epochs, such as warm-ups and milestones, are those of the paper's run, and of any longer run. In a shorter
run they keep their share of the paper's length: a warm-up of 10 epochs of 200 becomes 5 % of a run of 6.
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
    """Returns the name. Raises ValueError where there is no such preset."""
    if name not in names():
        raise ValueError(f"no such name{nearest(name, names())}")
    return name


def recipe(name: Any, method: str) -> list[dict[str, Any]]:
    """Returns a preset's layers of nested values for a method. Later layers count above earlier ones.

    There are no layers where there is no such preset.
    """
    if name not in names():
        return []
    content = _read(name)
    return [*recipe(content.get("like"), method), *(content[key] for key in ("all", method) if key in content)]


def shortened(recipe: Any, epochs: int) -> Any:
    """Returns a recipe for a run shorter than the paper's `epochs`: durations in epochs become shares of the run."""
    if isinstance(recipe, dict):
        return {key: shortened(value, epochs) for key, value in recipe.items()}
    if isinstance(recipe, list):
        return [shortened(value, epochs) for value in recipe]
    match = re.fullmatch(r"(\d+) epochs?", recipe) if isinstance(recipe, str) else None
    return f"{100 * int(match[1]) / epochs:g} %" if match else recipe


def methods(name: str) -> list[str]:
    """Returns the methods that a preset has a recipe for."""
    return [key for key in _read(name) if key not in ("all", "like")]


@functools.cache
def _read(name: str) -> dict[str, Any]:
    return read_yaml(_FOLDER / f"{name}.yaml")
