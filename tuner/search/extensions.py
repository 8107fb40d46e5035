"""Stoppers and samplers are files that are found by their names. A faulty file is a user's error, told in one line."""

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType

from trainables.config.errors import UserError, one_line


@dataclass(frozen=True)
class Extension:
    """The file of a stopper or a sampler.

    Attributes:
        key: of the setting that names the file, such as "stopping.kind".
        name: value of the setting.
        package: of the file.
    """

    key: str
    name: str
    package: str

    @property
    def module(self) -> str:
        """Full name of the module."""
        return f"{self.package}.{self.name}".removeprefix(".")  # a script's own stopper is in no package

    @property
    def file(self) -> str:
        """Path of the file."""
        loaded = sys.modules.get(self.module)
        if loaded is not None and loaded.__file__:
            return loaded.__file__
        spec = importlib.util.find_spec(self.module)
        return self.module if spec is None or spec.origin is None else spec.origin

    def load(self) -> ModuleType:
        """Returns the module.

        Raises:
            UserError: it cannot be imported.
        """
        with self.guarded("cannot be imported"):
            return importlib.import_module(self.module)

    def fault(self, what: str) -> UserError:
        """Returns the error that says what is wrong with the file."""
        return UserError(f"{self.key} = '{self.name}': {self.file} {what}")

    @contextmanager
    def guarded(self, what: str) -> Iterator[None]:
        """Turns whatever the code of the file raises into a UserError.

        Args:
            what: could not be done, or was done, when it raised.

        Raises:
            UserError: type, text and line of the error.
        """
        try:
            yield
        except (Exception, SystemExit) as error:
            raise self.fault(f"{what} ({type(error).__name__}: {one_line(error)}{self._place(error)})") from None

    def _place(self, error: BaseException) -> str:
        """Returns the line of the file that an error came from, as text to be appended; empty if it is not known."""
        if isinstance(error, SyntaxError):
            return ""  # its text has the line
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == self.file]
        return f", line {lines[-1]}" if lines else ""
