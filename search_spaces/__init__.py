"""What may vary in a search: define-by-run functions that know nothing of the rooms that use them.

A space is a module with `suggest(trial) -> dict` of dotted TrialConfig keys; `trial` offers Optuna's `suggest_float`,
`suggest_int` and `suggest_categorical`. `KNOWN_GOOD` lists values of the suggested names that are tried first: the
papers' settings. The first is the default that papers start from. A file of your own works the same way:
`space: my_space.py:suggest`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

Known = Sequence[Mapping[str, Any]]


class Trial(Protocol):
    """The part of an Optuna trial that a space uses."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int: ...

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...
