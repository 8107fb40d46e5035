"""Methods, data sets and evaluation protocols are files of a package, found by their names: adding one is adding a file."""

import importlib
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import TypeVar

Kind = TypeVar("Kind")
_ROOT = Path(__file__).parents[1]


def names(package: str) -> list[str]:
    """Names of the modules in `trainables.<package>` but for `base`, sorted, without importing them."""
    folder = _ROOT.joinpath(*package.split("."))
    return sorted(module.name for module in pkgutil.iter_modules([str(folder)]) if module.name != "base")


def classes(package: str, base: type[Kind]) -> dict[str, type[Kind]]:
    """The class below `base` that each module of a package defines, by the module's name."""
    found = {}
    for name in names(package):
        module = load(package, name)
        own = (
            thing for thing in vars(module).values() if isinstance(thing, type) and thing.__module__ == module.__name__
        )
        found[name] = next(kind for kind in own if issubclass(kind, base))
    return found


def load(package: str, name: str) -> ModuleType:
    """The module `trainables.<package>.<name>`; the name has been validated by `trainables.config.trial`."""
    return importlib.import_module(f"trainables.{package}.{name}")
