"""How many slots trials could use, by what is known of their widths."""

from hypothesis import given
from hypothesis import strategies as st

from tuner.search.lending import counts_to, slots_for
from tuner.search.speeds import Speeds

CHOICES = [1, 2, 3, 4, 8]
measured = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from(CHOICES), st.sampled_from([5.0, 10.0, 19.0, 40.0])), max_size=20
)
trials = st.lists(st.integers(1, 5).map(lambda count: CHOICES[:count]), max_size=60)


def speeds_of(epochs: list[tuple[str, int, float]]) -> Speeds:
    speeds = Speeds(1)
    for number, (key, slots, speed) in enumerate(epochs):
        metrics = {"epoch": number + 1, "time/workers": slots, "time/images_per_second": speed}
        speeds.measure(key, metrics)
    return speeds


@given(measured, trials, st.integers(-5, 500))
def test_what_could_be_used_leaves_room_for_one_trial_that_tries(
    epochs: list[tuple[str, int, float]], choices: list[list[int]], there: int
) -> None:
    speeds = speeds_of(epochs)
    paying = sum(max(speeds.paying(numbers)) for numbers in choices)
    most = sum(max(speeds.lasting(numbers)) for numbers in choices)
    asked = slots_for(speeds, choices, 0)
    assert paying <= asked <= min(most, paying + 7)
    assert (asked == paying) == (most == paying), "as long as there is a width to try, there is room for it"
    assert slots_for(speeds, choices, there) == max(asked, min(most, there)), "what is there is kept while it may do"


@given(measured, st.sampled_from(CHOICES))
def test_a_trial_may_hold_what_it_was_given_and_less_that_is_not_refused(
    epochs: list[tuple[str, int, float]], given_slots: int
) -> None:
    speeds = speeds_of(epochs)
    counts = counts_to(speeds, CHOICES, given_slots)
    assert counts[0] == 1 and counts[-1] == given_slots and [*counts] == sorted({*counts})
    assert {*counts[:-1]} <= {*speeds.lasting(CHOICES)} <= {*CHOICES}
