"""How long a search has run and will run, and the gaps between two trials on a slot, by the times of its trials."""

import math
import statistics
from collections.abc import Sequence
from itertools import pairwise

from optuna.trial import FrozenTrial


def slot_gaps(trials: Sequence[FrozenTrial]) -> list[float]:
    """Seconds from a trial's last metric to the first step of the next trial on the same slot."""
    timed = [t.user_attrs for t in trials if t.user_attrs.get("first_step_at") and t.user_attrs.get("last_metric_at")]
    by_slot: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for attrs in timed:
        spans = by_slot.setdefault((attrs["session"], attrs["slot"]), [])
        spans.append((attrs["first_step_at"], attrs["last_metric_at"]))
    gaps = []
    for spans in by_slot.values():
        spans.sort()
        gaps += [later[0] - earlier[1] for earlier, later in pairwise(spans)]
    return [gap for gap in gaps if gap >= 0]


def elapsed(sessions: Sequence[float], trials: Sequence[FrozenTrial], now: float | None) -> float | None:
    """Seconds that a search has run, over all its sessions; None before the first one.

    Args:
        sessions: when each began.
        trials: of the study; the times that they noted show how long a session lasted.
        now: the end of the last session, where it still runs.
    """
    if not sessions:
        return None
    stamps = [trial.user_attrs.get(name) or 0 for trial in trials for name in ("started_at", "last_metric_at")]
    bounds = [*sessions[1:], math.inf]
    ends = [
        max((s for s in stamps if begun <= s < bound), default=begun)
        for begun, bound in zip(sessions, bounds, strict=True)
    ]
    if now is not None:
        ends[-1] = now
    return sum(ends) - sum(sessions)


def pace(sessions: Sequence[float], trials: Sequence[FrozenTrial]) -> float | None:
    """Mean seconds of the trials that began and ended within one session; None where there is none."""
    spans = [(t.user_attrs.get("first_step_at"), t.user_attrs.get("last_metric_at")) for t in trials]
    whole = [b - a for a, b in spans if a and b and not any(a < begun <= b for begun in sessions)]
    return statistics.fmean(whole) if whole else None


def left(pace: float | None, running: Sequence[FrozenTrial], unasked: int, now: float) -> float | None:
    """Seconds until a search ends, if the trials to come take as long as those before; None where that is not known.

    Args:
        pace: seconds of a trial.
        running: the trials that have not ended.
        unasked: how many trials are still to be proposed.
        now: seconds since 1970.
    """
    if pace is None:
        return None
    begun = [trial.user_attrs.get("started_at", now) for trial in running]
    rest = sum(max(0.0, pace - (now - start)) for start in begun)
    return (unasked * pace + rest) / max(1, len(running))
