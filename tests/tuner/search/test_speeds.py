"""What epochs show of the speed of trials, and which widths pay."""

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.search.speeds import Speeds


def shown(epoch: int, workers: int, speed: float, **more: Any) -> dict[str, Any]:
    return {"epoch": epoch, "time/workers": workers, "time/images_per_second": speed, **more}


def test_an_unknown_width_is_tried_by_a_trial_that_has_shown_its_speed_on_one_slot() -> None:
    speeds = Speeds(2)
    assert speeds.gains("a", [1, 2, 4]) == {1: 1.0}
    speeds.measure("a", shown(1, 2, 10.0))
    assert speeds.gains("a", [1, 2, 4]) == {1: 1.0, 2: 2.0, 4: 4.0}, "at best"
    assert speeds.gains("b", [1, 2, 4]) == {1: 1.0}
    speeds.measure("a", shown(2, 4, 15.0))
    assert speeds.gains("b", [1, 2, 4]) == {1: 1.0, 2: 1.5}, "what is known to pay is for all"


@pytest.mark.parametrize(("speed", "pays"), [(10.9, False), (11.1, True)])
def test_two_slots_pay_from_a_tenth_more_speed(speed: float, pays: bool) -> None:
    speeds = Speeds(1)
    speeds.measure("a", shown(1, 1, 10.0))
    speeds.measure("a", shown(2, 2, speed))
    assert speeds.paying([1, 2, 4]) == ([1, 2] if pays else [1]) and speeds.lasting([1, 2, 4]) == [1, 2, 4]
    speeds.measure("a", shown(3, 2, speed))
    assert speeds.lasting([1, 2, 4]) == ([1, 2, 4] if pays else [1, 4])
    speeds.measure("a", shown(4, 1, 5.0))
    assert speeds.lasting([1, 2]) == ([1, 2] if pays else [1]), "it is not tried again"


def test_many_slots_pay_from_half_of_their_best_speed_up() -> None:
    speeds = Speeds(1)
    speeds.measure("a", shown(1, 1, 10.0))
    for epoch in (2, 3):
        speeds.measure("a", shown(epoch, 8, 39.0))
    assert speeds.lasting([1, 2, 4, 8]) == [1, 2, 4]
    speeds.measure("a", shown(4, 4, 39.0))
    assert speeds.lasting([1, 2, 4, 8]) == [1, 2, 4] and speeds.known(4) == pytest.approx(3.9)


def test_speed_ups_are_ratios_within_trials_and_pooled_over_them() -> None:
    speeds = Speeds(1)
    for key, base, ratio in (("a", 10.0, 1.5), ("b", 1000.0, 1.7), ("c", 1.0, 1.9)):
        speeds.measure(key, shown(1, 1, base))
        speeds.measure(key, shown(2, 2, base * ratio))
        speeds.forget(key)
    speeds.measure("d", shown(1, 2, 1e9))
    assert speeds.speed_up(2) == pytest.approx(1.7)


def test_a_width_that_does_not_pay_so_far_is_tried_on_by_those_who_can_compare() -> None:
    speeds = Speeds(1)
    speeds.measure("a", shown(1, 1, 10.0))
    speeds.measure("a", shown(2, 2, 9.0))
    assert speeds.gains("a", [1, 2]) == {1: 1.0, 2: 0.9} and speeds.gains("b", [1, 2]) == {1: 1.0}
    speeds.measure("a", shown(3, 2, 18.0))
    assert speeds.gains("b", [1, 2]) == {1: 1.0, 2: 1.8}, "the best epoch counts"


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([1, 2, 4])), max_size=40),
    st.floats(0.01, 1.0),
    st.sampled_from([{2: 1.7, 4: 3.0}, {2: 1.7, 4: 1.8}, {2: 1.05, 4: 1.1}]),
)
def test_the_start_of_workers_has_no_width_refused(
    epochs: list[tuple[str, int]], slowed: float, speed_ups: dict[int, float]
) -> None:
    """However slow a trial's first epoch on a width is: only widths are refused that do not pay without it."""
    speeds, seen = Speeds(1), Counter[tuple[str, int]]()
    for key in "abc":
        speeds.measure(key, shown(1, 1, 10.0))
    for number, (key, slots) in enumerate(epochs):
        seen[key, slots] += 1
        share = slowed if slots > 1 and seen[key, slots] == 1 else 1.0
        speeds.measure(key, shown(2 + number, slots, 10.0 * speed_ups.get(slots, 1.0) * share))
    refused = {2, 4} - {*speeds.lasting([1, 2, 4])}
    firm = {slots for (_, slots), count in seen.items() if slots > 1 and count >= 2}
    steady = [slots for slots in (2, 4) if speed_ups[slots] >= max(1.1, 0.5 * slots)]
    assert refused <= firm
    assert refused <= {slots for slots in (2, 4) if slots not in steady or speed_ups[4] < 1.1 * speed_ups[2]}
    assert firm - {*steady} <= refused


def test_seconds_of_an_epoch_on_one_slot() -> None:
    speeds = Speeds(1)
    assert speeds.pace("a") == 1.0
    speeds.measure("a", shown(1, 1, 10.0, **{"time/first_step_at": 100.0, "time/measured_at": 120.0}))
    assert speeds.pace("a") == 20.0 == speeds.pace("b"), "as that of others where it is not known"
    speeds.measure("a", shown(2, 2, 15.0, **{"time/first_step_at": 128.0, "time/measured_at": 130.0}))
    assert speeds.pace("a") == 20.0, "its workers took it within the epoch"
    speeds.measure("a", shown(4, 2, 15.0, **{"time/first_step_at": 128.0, "time/measured_at": 150.0}))
    assert speeds.pace("a") == pytest.approx(15.0), "two epochs in 20 seconds, one and a half times as fast"


def test_what_was_measured_is_taken_up_from_records() -> None:
    first, again = Speeds(2), Speeds(2)
    for metrics in (shown(1, 2, 10.0, **{"time/first_step_at": 0.0, "time/measured_at": 9.0}), shown(2, 6, 21.0)):
        again.take_up("a", json.loads(json.dumps({"event": "epoch", **first.measure("a", metrics)})))
    assert again.gains("a", [1, 2, 3]) == first.gains("a", [1, 2, 3]) == {1: 1.0, 2: 2.0, 3: 2.1}
    assert again.pace("a") == first.pace("a") == 9.0
    other = Speeds(4)
    other.take_up("a", {"workers": 6, "images_per_second": 21.0})
    other.take_up("a", {"event": "epoch"})
    assert other.gains("a", [1, 2]) == {1: 1.0}, "measured with another smallest width, or by an earlier version"


@pytest.mark.parametrize("odd", [None, "x", float("nan"), float("inf"), 0, -1.0])
def test_odd_measurements_count_for_nothing(odd: object) -> None:
    speeds = Speeds(1)
    assert speeds.measure("a", {"epoch": 1, "time/workers": 1, "time/images_per_second": odd}) == {}
    assert speeds.measure("a", {"epoch": 1, "knn_top1": 0.5}) == {}
