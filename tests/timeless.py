"""What is a function of a trial: what is known of it, less wall-clock times and the like."""

from collections.abc import Iterable, Mapping
from typing import Any

KNOWN = ("key", "state", "epoch", "score", "curve", "values", "error")


def timeless(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics of an epoch that are a function of the trial."""
    return {name: value for name, value in metrics.items() if not name.startswith("time/")}


def timeless_history(history: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The same of all epochs."""
    return [timeless(metrics) for metrics in history]


def timeless_trials(state: Mapping[str, Any], slots: bool = True) -> list[dict[str, Any]]:
    """All that `status --json` says of each trial, less times and paths.

    Args:
        state: what it says of a run.
        slots: whether it is also told which slot a trial was on last.
    """
    other = {} if slots else {"slot": None}
    return [
        {name: row[name] for name in KNOWN} | {"metrics": timeless(row["metrics"]) | other} for row in state["trials"]
    ]
