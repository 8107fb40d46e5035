"""Methods, data sets and evaluation protocols are files of a package, found by their names: to add one, add a file."""

import ast
import functools
import importlib
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

Kind = TypeVar("Kind")
_ROOT = Path(__file__).parents[1]


def names(package: str) -> list[str]:
    """Returns the names of the modules in `trainables.<package>`, sorted, without base classes. It imports none."""
    return names_in(_ROOT.joinpath(*package.split(".")))


def names_in(folder: Path) -> list[str]:
    """Returns the names of the modules in a folder, sorted, without base classes. It imports none."""
    modules = (module.name for module in pkgutil.iter_modules([str(folder)]))
    return sorted(name for name in modules if not name.startswith("base"))


def classes(package: str, base: type[Kind]) -> dict[str, type[Kind]]:
    """Returns the class below `base` that each module of `trainables.<package>` defines, by the module's name."""
    return {name: class_in(package, name, base) for name in names(package)}


def class_in(package: str, name: str, base: type[Kind]) -> type[Kind]:
    """Returns the first class below `base` that the module `trainables.<package>.<name>` defines."""
    module = load(package, name)
    defined = [thing for thing in vars(module).values() if isinstance(thing, type)]
    return next(kind for kind in defined if kind.__module__ == module.__name__ and issubclass(kind, base))


def load(package: str, name: str) -> ModuleType:
    """Returns the module `trainables.<package>.<name>`, whose name has been validated."""
    return importlib.import_module(f"trainables.{package}.{name}")


def ordered(package: str, first: Sequence[str]) -> tuple[str, ...]:
    """Returns the names of the modules in `trainables.<package>`: those of `first` in that order, then all others,
    sorted.
    """
    return tuple(sorted(names(package), key=lambda name: (first.index(name) if name in first else len(first), name)))


@functools.cache
def constant(package: str, name: str, key: str, default: Any) -> Any:
    """Returns the literal that a class of a module assigns to an annotated `key`, or `default` if no class does.

    It reads the source without importing it, for what a configuration must know of a file that imports torch.
    """
    source = _ROOT.joinpath(*package.split("."), f"{name}.py").read_text()
    kinds = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    for statement in (statement for kind in kinds for statement in kind.body):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and statement.target.id == key
            and statement.value is not None
        ):
            return ast.literal_eval(statement.value)
    return default
