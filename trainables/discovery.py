"""Methods and data sets are files of a package, found by their names: adding one is adding a file."""

import importlib
import pkgutil
from pathlib import Path
from types import ModuleType

_HERE = Path(__file__).parent


def names(package: str) -> list[str]:
    """Names of the modules in `trainables.<package>`, sorted, without importing them."""
    return sorted(module.name for module in pkgutil.iter_modules([str(_HERE / package)]))


def load(package: str, name: str) -> ModuleType:
    """The module `trainables.<package>.<name>`; the name has been validated by `trainables.config`."""
    return importlib.import_module(f"trainables.{package}.{name}")
