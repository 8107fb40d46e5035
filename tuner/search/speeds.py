"""How fast trials are by their width, as epochs have shown it, and which widths pay.

A speed-up is the ratio of images per second on several slots to those on one slot, within one trial, in the best epoch
on each. The speed-ups of all trials are pooled, also of trials with other networks or batches: widths are compared only
to use idle slots well.

The first epoch of a trial on a width includes the start of its communicator and the warm-up of its workers. It may show
that the width pays, but not that it does not: a width is refused by trials that had two epochs on it.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

LEAST_GAIN = 1.1  # speed-up over the best smaller width that is known, below which a width does not pay
LEAST_SHARE = 0.5  # of the speed-up that so many slots would give at best, below which they do not pay
FIRM = 2  # epochs of a trial on a width from which on it may have that width refused


class Speeds:
    """Measured speeds of a search.

    Args:
        smallest: workers of a slot.
    """

    def __init__(self, smallest: int):
        self._smallest = smallest
        self._measured: dict[str, dict[int, list[float]]] = {}  # images per second, by trial and number of slots
        self._paces: dict[str, float] = {}  # seconds that an epoch of a trial takes on one slot
        self._last: dict[str, tuple[int, float]] = {}  # of each trial that runs: its last epoch, and when that ended
        self._speed_ups: dict[int, float] = {1: 1.0}
        self._refused: set[int] = set()  # numbers of slots that were tried and did not pay

    def measure(self, key: str, metrics: Mapping[str, Any]) -> dict[str, int | float]:
        """Takes what an epoch shows; returns it as fields of the epoch's record, which `take_up` reads.

        Args:
            key: of the trial.
            metrics: of the epoch; without its speed and its number of workers nothing is measured.
        """
        before, ended = self._last.get(key), self.note(key, metrics)
        speed, workers = _positive(metrics, "time/images_per_second"), int(_positive(metrics, "time/workers"))
        if not (speed and workers):
            return {}
        fields: dict[str, int | float] = {"workers": workers, "images_per_second": speed}
        begun, epoch = float(metrics.get("time/first_step_at", math.nan)), int(metrics["epoch"])
        if before is None and epoch == 1:
            before = 0, begun
        # workers that took the trial within this epoch have not seen all of it
        if before is not None and begun <= before[1] < ended and epoch > before[0]:
            fields["seconds"] = (ended - before[1]) / (epoch - before[0])
        self.take_up(key, fields)
        return fields

    def note(self, key: str, metrics: Mapping[str, Any]) -> float:
        """Notes when an epoch has ended, which was measured before or is measured now; returns that time."""
        ended = _positive(metrics, "time/measured_at")
        self._last[key] = int(metrics["epoch"]), ended
        return ended

    def take_up(self, key: str, fields: Mapping[str, Any]) -> None:
        """Takes the fields of an epoch's record; a record of an earlier version has none of them."""
        slots, rest = divmod(fields.get("workers", 0), self._smallest)
        if slots < 1 or rest or "images_per_second" not in fields:
            return  # nothing was measured, or before `resources.workers` was changed
        speeds = self._measured.setdefault(key, {})
        speeds.setdefault(slots, []).append(fields["images_per_second"])
        for number in speeds if slots == 1 else (slots,):
            self._pool(number)
        if "seconds" in fields:
            self._paces[key] = fields["seconds"] * self.speed_up(slots)

    def _pool(self, slots: int) -> None:
        """Works out the speed-up of a number of slots from all trials that ran on them and on one slot."""
        if slots == 1:
            return
        compared = [speeds for speeds in self._measured.values() if slots in speeds and 1 in speeds]
        if not compared:
            return
        self._speed_ups[slots] = statistics.median(max(speeds[slots]) / max(speeds[1]) for speeds in compared)
        firm = [max(speeds[slots]) / max(speeds[1]) for speeds in compared if len(speeds[slots]) >= FIRM]
        if firm and statistics.median(firm) < self._least(slots):
            self._refused.add(slots)

    def _least(self, slots: int) -> float:
        """Returns the speed-up from which on a number of slots pays; 0 for one slot."""
        below = max((self._speed_ups[other] for other in self._speed_ups if other < slots), default=0.0)
        return max(LEAST_GAIN * below, LEAST_SHARE * slots) if slots > 1 else 0.0

    def forget(self, key: str) -> None:
        """Forgets a trial that has ended, except for its speed-ups."""
        self._last.pop(key, None)
        if len(self._measured.get(key, ())) < 2:
            self._measured.pop(key, None)

    def known(self, slots: int) -> float | None:
        """Returns the speed-up of a number of slots; None where it was not measured."""
        return self._speed_ups.get(slots)

    def speed_up(self, slots: int) -> float:
        """Returns the speed-up of a number of slots; where it is not known, at best."""
        return self._speed_ups.get(slots, float(slots))

    def pace(self, key: str) -> float:
        """Returns the seconds that an epoch of a trial takes on one slot; as those of others where it is not known."""
        known = self._paces
        return known[key] if key in known else statistics.fmean(known.values()) if known else 1.0

    def lasting(self, slots: Sequence[int]) -> list[int]:
        """Returns the numbers of slots that are not refused."""
        return [number for number in slots if number not in self._refused]

    def paying(self, slots: Sequence[int]) -> list[int]:
        """Returns the numbers of slots that pay, as far as is known; one slot does in any case."""
        known = [number for number in self.lasting(slots) if number in self._speed_ups]
        return [number for number in known if self._speed_ups[number] >= self._least(number)]

    def gains(self, key: str, slots: Sequence[int]) -> dict[int, float]:
        """Returns the numbers of slots that a trial may have now, each with its speed-up.

        A number that is not known to pay is tried by a trial that has shown its speed on one slot: its next epochs then
        tell whether it pays. If it does not, it is not tried again in the search.

        Args:
            key: of the trial.
            slots: the candidates, ascending from 1.
        """
        may_try = 1 in self._measured.get(key, ())
        return {number: self.speed_up(number) for number in (self.lasting if may_try else self.paying)(slots)}


def _positive(metrics: Mapping[str, Any], name: str) -> float:
    """Returns a metric as a positive number; 0 where it is none."""
    value = metrics.get(name)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) and value > 0 else 0.0
