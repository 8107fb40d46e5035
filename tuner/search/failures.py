"""Uniform failure: trials that fail alike before their first epoch. What they share is at fault, not they."""

import re
from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState

ALIKE = 3  # trials that end a search
STOPPED_EARLY = "stopped by the user before its first epoch"  # error of such a trial, which says nothing of others
DIVERGED = "TrialFailure:"  # what the error of a trial begins with that is caused by its own values


def alike(trials: Sequence[FrozenTrial], passed_over: int = 0) -> list[FrozenTrial]:
    """The last three trials that ended, if they failed alike before their first epoch; otherwise none.

    It is a function of the journal. A trial that diverges may have drawn a bad value, so three in a row end a search
    only if no trial has reached an epoch.

    Args:
        trials: of a study.
        passed_over: how many of those that ended, the first ones, do not count: a resume goes on in spite of them.
    """
    ended = sorted((t for t in trials if t.state.is_finished()), key=lambda t: (t.datetime_complete, t.number))
    last = ended[passed_over:][-ALIKE:]
    kinds = {_kind(trial) for trial in last}
    if len(last) < ALIKE or len(kinds) > 1 or None in kinds:
        return []
    if str(last[0].user_attrs["error"]).startswith(DIVERGED) and any(trial.intermediate_values for trial in trials):
        return []
    return last


def _kind(trial: FrozenTrial) -> str | None:
    """The error of a trial that failed before its first epoch, without its numbers and its worker."""
    error = trial.user_attrs.get("error")
    if (
        trial.state != TrialState.FAIL
        or not error
        or error == STOPPED_EARLY
        or trial.intermediate_values
        or trial.user_attrs.get("metrics")
    ):
        return None
    return re.sub(r"[-+]?\d+(\.\d+)?(e[-+]?\d+)?|\b(nan|inf)\b", "#", re.sub(r" \(worker \d+\)", "", error))
