"""One file a paper: its recipes by method, in nested keys of a trial; `all` is what they have in common."""

import functools
from pathlib import Path
from typing import Any

from trainables.errors import nearest
from trainables.settings import read_yaml

_HERE = Path(__file__).parent


def names() -> list[str]:
    """Names of the papers, sorted."""
    return sorted(path.stem for path in _HERE.glob("*.yaml"))


def known(name: str) -> str:
    """The name, if there is such a preset; ValueError otherwise."""
    if name not in names():
        raise ValueError(f"no such name{nearest(name, names())}")
    return name


def recipe(name: Any, method: str) -> list[dict[str, Any]]:
    """What a preset says of a method: nested values, later ones above earlier ones. Nothing where there is no such preset."""
    return [section for key, section in _read(name).items() if key in ("all", method)] if name in names() else []


def methods(name: str) -> list[str]:
    """Methods that a preset has a recipe for."""
    return [key for key in _read(name) if key != "all"]


@functools.cache
def _read(name: str) -> dict[str, Any]:
    return read_yaml(_HERE / f"{name}.yaml")
