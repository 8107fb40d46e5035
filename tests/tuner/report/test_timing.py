"""Times of a search, by times that are put down by hand."""

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from tuner.report import timing


def trial(session: str = "a", slot: int = 0, **times: float) -> FrozenTrial:
    attributes = {"session": session, "slot": slot, **times}
    return optuna.trial.create_trial(state=TrialState.COMPLETE, value=0.5, user_attrs=attributes)


def test_a_gap_lies_between_a_last_metric_and_the_next_first_step_on_the_slot() -> None:
    trials = [
        trial(first_step_at=10.0, last_metric_at=20.0),
        trial(slot=1, first_step_at=11.0, last_metric_at=30.0),
        trial(first_step_at=20.5, last_metric_at=33.0),
        trial(slot=1, first_step_at=31.0, last_metric_at=40.0),
        trial("b", first_step_at=90.0, last_metric_at=95.0),
    ]
    assert timing.slot_gaps(trials) == [0.5, 1.0]


@pytest.mark.parametrize(
    ("started", "seconds"),
    [([], 2 * 10), ([95.0], (2 * 10 + 5) / 1), ([95.0, 92.0], (2 * 10 + 5 + 2) / 2), ([50.0], 2 * 10)],
)
def test_time_left_counts_what_runs_by_what_is_left_of_it(started: list[float], seconds: float) -> None:
    running = [trial(started_at=at) for at in started]
    assert timing.left(10.0, running, 2, 100.0) == seconds
    assert timing.left(None, running, 2, 100.0) is None
