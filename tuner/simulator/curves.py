"""Curves: what the training of a trial would show, looked up instead of trained.

A source answers with what was recorded, or refuses. It never extrapolates.
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
        metrics: of the epoch, by name; "epoch" is among them.
        seconds: that the epoch took, its evaluation included.
    """

    metrics: Mapping[str, Any]
    seconds: float


@dataclass(frozen=True)
class Point:
    """A recorded trial.

    Attributes:
        values: that were proposed for it, by dotted key.
        epochs: what was recorded, by epoch.
        params: what its space suggested, by suggested name; None where that is not known.
        error: why it failed after these epochs; None where it did not.
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
        """What was recorded of a trial at an epoch.

        Args:
            values: that were proposed for the trial, by dotted key.
            epoch: from 1.

        Raises:
            NotRecorded: nothing was. The refusal is counted.
            RecordedFailure: the trial failed in this epoch.
        """
        try:
            return self._find(values, epoch)
        except NotRecorded:
            self.refused += 1
            raise

    @abstractmethod
    def _find(self, values: Mapping[str, object], epoch: int) -> Recorded:
        """As `find`, without the count."""

    @property
    def points(self) -> list[Point]:
        """All recorded trials, in the order in which they were recorded; empty where any trial has a curve."""
        return []


class Table(Curves):
    """Recorded trials. A trial is looked up by the values that were proposed for it, all of them.

    A trial is a function of its configuration, so where two have the same values the curve that was recorded first
    counts, and the other one adds the epochs that the first lacks.

    Attributes:
        trial: what all recorded trials have in common, as nested values of a TrialConfig; None where it is not known.

    Args:
        points: what was recorded.
        trial: as the attribute.
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
    """A function in place of records.

    Args:
        function: gives the metrics of values at an epoch; "epoch" is added.
        seconds: of each epoch.
    """

    def __init__(self, function: Callable[[Mapping[str, object], int], Mapping[str, float]], seconds: float = 1.0):
        super().__init__()
        self._function, self._seconds = function, seconds

    def _find(self, values: Mapping[str, object], epoch: int) -> Recorded:
        return Recorded({**self._function(values, epoch), "epoch": epoch}, self._seconds)


def identity(values: Mapping[str, object]) -> str:
    """Values as one text. The order of the keys makes no difference, nor whether a whole number is written 1 or 1.0."""
    return json.dumps({key: _number(values[key]) for key in sorted(values)}, sort_keys=True)


def _number(value: object) -> object:
    """A whole number as an integer, for JSON and Parquet may give back either."""
    return int(value) if isinstance(value, float) and math.isfinite(value) and value.is_integer() else value
