"""Curves: the metrics of a trial by epoch, looked up instead of trained.

A source returns what was recorded, or refuses. It never extrapolates.
"""

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Recorded:
    """An epoch of a trial.

    Attributes:
        metrics: values of the epoch's metrics by name; "epoch" is one of them.
        seconds: duration of the epoch and its evaluation.
    """

    metrics: Mapping[str, Any]
    seconds: float


@dataclass(frozen=True)
class Point:
    """A recorded trial.

    Attributes:
        values: the proposed values by dotted key.
        epochs: the recorded epochs by number.
        params: the values that the space suggested, by suggested name; None where they are not known.
        error: why the trial failed after these epochs; None where it did not fail.
        every: the trial is evaluated in each epoch that is a multiple of this, and in its last one.
    """

    values: Mapping[str, object]
    epochs: Mapping[int, Recorded]
    params: Mapping[str, Any] | None = None
    error: str | None = None
    every: int = 1


class NotRecorded(Exception):
    """A look-up that a source refuses."""


class RecordedFailure(Exception):
    """The recorded trial failed in this epoch; the error's text is that trial's."""


class Curves(ABC):
    """A source of curves.

    Attributes:
        refused: how many look-ups were refused.
    """

    def __init__(self) -> None:
        self.refused = 0

    def find(self, values: Mapping[str, object], epoch: int) -> Recorded:
        """Returns a recorded epoch of a trial.

        Args:
            values: the values that were proposed for the trial, by dotted key.
            epoch: its number, from 1.

        Raises:
            NotRecorded: the epoch was not recorded. The refusal is counted.
            RecordedFailure: the trial failed in this epoch.
        """
        try:
            return self._find(values, epoch)
        except NotRecorded:
            self.refused += 1
            raise

    @abstractmethod
    def _find(self, values: Mapping[str, object], epoch: int) -> Recorded:
        """Does what `find` does, without counting refusals."""

    @property
    def points(self) -> list[Point]:
        """All recorded trials in their order. Empty for a source that has a curve for any values."""
        return []


class Table(Curves):
    """Recorded trials. A trial is looked up by all values that were proposed for it.

    A trial is a function of its configuration. So of two trials with the same values the first one's curve counts, and
    the second one adds the epochs that the first lacks.

    Attributes:
        trial: what all recorded trials have in common, as nested values of a TrialConfig; None where it is not known.

    Args:
        points: the recorded trials.
        trial: the attribute of that name.
    """

    def __init__(self, points: Iterable[Point], trial: Mapping[str, object] | None = None):
        super().__init__()
        self.trial = trial
        self._points: dict[str, Point] = {}
        for point in points:
            name = identity(point.values)
            before = self._points.get(name)
            if before is not None:
                params = point.params if before.params is None else before.params
                point = Point(before.values, {**point.epochs, **before.epochs}, params, before.error, before.every)
            self._points[name] = point

    def _find(self, values: Mapping[str, object], epoch: int) -> Recorded:
        point = self._points.get(identity(values))
        if point is None:
            raise NotRecorded(f"no curve is recorded: {identity(values)}")
        if epoch not in point.epochs:
            last = max(point.epochs, default=0)
            if point.error is not None and last < epoch <= last + point.every:
                raise RecordedFailure(point.error)
            what = f"the curve ends with epoch {last}" if epoch > last else f"epoch {epoch} is missing"
            raise NotRecorded(f"{what}: {identity(values)}")
        return point.epochs[epoch]

    @property
    def points(self) -> list[Point]:
        return list(self._points.values())


class Surface(Curves):
    """A source that computes its curves by a function.

    Args:
        function: gives the metrics of values at an epoch; "epoch" is added.
        seconds: duration of each epoch.
    """

    def __init__(self, function: Callable[[Mapping[str, object], int], Mapping[str, float]], seconds: float = 1.0):
        super().__init__()
        self._function, self._seconds = function, seconds

    def _find(self, values: Mapping[str, object], epoch: int) -> Recorded:
        return Recorded({**self._function(values, epoch), "epoch": epoch}, self._seconds)


def identity(values: Mapping[str, object]) -> str:
    """Returns values as one text. The order of the keys does not matter, nor whether a whole number is 1 or 1.0."""
    return json.dumps({key: _number(values[key]) for key in sorted(values)}, sort_keys=True)


def _number(value: object) -> object:
    """Returns a whole number as an integer, because JSON and Parquet may return either kind."""
    return int(value) if isinstance(value, float) and math.isfinite(value) and value.is_integer() else value
