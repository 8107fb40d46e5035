"""How many trials run at once, from what the nodes have, and how the slots are divided among trials."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trainables.config.errors import UserError
from tuner.plan.reading import continued
from tuner.plan.resources import Resources
from tuner.plan.spec import parse
from tuner.search.allocation import LITTLE, Running, allot, choose, concurrent_trials, what_fits


@pytest.mark.parametrize(
    ("nodes", "wanted", "trials", "room"),
    [
        ([{"CPU": 2}], {"workers": 2}, 9, 1),
        ([{"CPU": 8}], {"workers": 2}, 9, 4),
        ([{"CPU": 8}], {"workers": 2}, 3, 3),
        ([{"CPU": 8}], {"workers": 2, "concurrent_trials": 2}, 9, 2),
        ([{"CPU": 1}, {"CPU": 1}], {"workers": 2}, 9, 1),  # a trial may span nodes
        (
            [{"CPU": 6}] * 3,
            {"workers": 1, "cpus_per_worker": 4},
            9,
            3,
        ),  # a worker may not: 18 CPUs have room for 3, not 4
        ([{"CPU": 64, "GPU": 8}, {"CPU": 4}], {"workers": 2, "cpus_per_worker": 4, "gpus_per_worker": 1}, 9, 4),
        ([{"CPU": 4, "GPU": 8}], {"workers": 1, "cpus_per_worker": 2, "gpus_per_worker": 1}, 9, 2),
        ([{"CPU": 8, "GPU": 1}], {"workers": 1, "gpus_per_worker": 0.25}, 9, 4),
    ],
)
def test_room(nodes: list, wanted: dict, trials: int, room: int) -> None:
    assert concurrent_trials(nodes, Resources(**wanted), trials) == room


@pytest.mark.parametrize("nodes", [[{"CPU": 2}], [{"CPU": 3}, {"CPU": 3}], []])
def test_no_room(nodes: list) -> None:
    with pytest.raises(UserError, match=r"resources.workers = 2: a trial needs 8 CPU, the cluster has"):
        concurrent_trials(nodes, Resources(workers=2, cpus_per_worker=4), 1)


@pytest.mark.parametrize(("patience", "seconds"), [("90s", 90), ("10m", 600), ("1.5h", 5400)])
def test_patience(patience: str, seconds: float) -> None:
    before = parse({})
    assert before.resources.patience_seconds == 600
    after = continued(before.plain(), [f"resources.patience={patience}"])
    assert after.resources.patience_seconds == seconds


def test_custom_resources_and_the_most_slots_count() -> None:
    wanted = Resources(workers="1-4", custom={"tpu": 2})
    assert concurrent_trials([{"CPU": 8, "tpu": 5}, {"CPU": 8}], wanted, 9) == 2
    assert concurrent_trials([{"CPU": 8}], Resources(max_slots=3), 9) == 3


@pytest.mark.parametrize(
    ("nodes", "wanted", "words"),
    [
        ([{"CPU": 2}], {"workers": 4}, "a trial needs 4 CPU, the cluster has 2 CPU; would fit: resources.workers=2"),
        (
            [{"CPU": 3}, {"CPU": 3}],
            {"workers": 2, "cpus_per_worker": 4},
            "a trial needs 8 CPU, the cluster has 6 CPU on 2 nodes with room for 0 workers "
            "(at most 3 CPU on one node); would fit: resources.cpus_per_worker=3",
        ),
        (
            [{"CPU": 4}],
            {"gpus_per_worker": 1},
            "a trial needs 1 CPU, 1 GPU, the cluster has 4 CPU, 0 GPU; would fit: resources.gpus_per_worker=0",
        ),
        (
            [{"CPU": 4, "tpu": 1.0}],
            {"custom": {"tpu": 2}},
            "a trial needs 1 CPU, 2 tpu, the cluster has 4 CPU, 1 tpu; "
            "would fit: a node with 1 CPU, 2 tpu for the worker",
        ),
        (
            [],
            {"workers": "2-8"},
            "a trial needs 2 CPU, the cluster has 0 CPU; would fit: a node with 1 CPU for each worker",
        ),
    ],
)
def test_what_is_asked_what_is_there_and_what_would_fit(nodes: list, wanted: dict[str, Any], words: str) -> None:
    asked = Resources(**wanted)
    assert what_fits(nodes, asked) == f"resources.workers = {asked.workers}: {words}"
    with pytest.raises(UserError):
        concurrent_trials(nodes, asked, 1)


@given(st.lists(st.builds(lambda cpu, gpu: {"CPU": cpu, "GPU": gpu}, st.integers(0, 9), st.integers(0, 3)), max_size=3))
def test_settings_that_are_said_to_fit_do_fit(nodes: list[dict[str, int]]) -> None:
    asked = Resources(workers=3, cpus_per_worker=3, gpus_per_worker=1)
    try:
        concurrent_trials(nodes, asked, 1)
    except UserError as error:
        for setting in str(error).partition("would fit: ")[2].split(" or "):
            if "=" in setting:
                key, _, value = setting.removeprefix("resources.").partition("=")
                assert concurrent_trials(nodes, asked.model_copy(update={key: int(value)}), 1) >= 1
                if key != "gpus_per_worker":
                    with pytest.raises(UserError):
                        concurrent_trials(nodes, asked.model_copy(update={key: int(value) + 1}), 1)


# how the slots are divided


@st.composite
def running(draw: st.DrawFn, key: str, nodes: list[str]) -> Running:
    """A trial in any state: its last number of slots may not pay any more, and it may hold others than it was given."""
    choices = sorted({1, *draw(st.sets(st.integers(2, 8), max_size=4))})
    gains = {number: 1.0 if number == 1 else draw(st.floats(1.1, number)) for number in choices}
    slots = draw(st.one_of(st.sampled_from(choices), st.integers(1, 8)))
    held = draw(st.dictionaries(st.sampled_from(nodes), st.integers(0, 4), max_size=len(nodes)))
    left = draw(st.one_of(st.floats(0, 20), st.floats(0, 1e4)))
    return Running(key, slots, dict(sorted(gains.items())), left, held)


@st.composite
def clusters(draw: st.DrawFn) -> tuple[dict[str, int], list[Running], int]:
    """Slots by node, trials that run, and how many more could start."""
    slots = draw(st.dictionaries(st.sampled_from("abcd"), st.integers(0, 8), max_size=4))
    trials = [draw(running(f"{number:04d}", list("abcd"))) for number in range(draw(st.integers(0, 6)))]
    return slots, trials, draw(st.integers(0, 12))


def applied(trials: list[Running], result: Mapping[str, int]) -> list[Running]:
    """The trials once they have what they were given."""
    return [Running(t.key, max(1, result[t.key]), t.gains, t.left, t.held) for t in trials]


@given(clusters())
def test_slots_are_given_once_and_each_trial_has_one_while_there_are_enough(case: Any) -> None:
    slots, trials, waiting = case
    result, total = allot(slots, trials, waiting), sum(slots.values())
    assert list(result) == [trial.key for trial in trials] and sum(result.values()) <= total
    assert sum(1 for count in result.values() if count) == min(total, len(trials))


@given(clusters())
def test_nobody_is_widened_while_somebody_waits(case: Any) -> None:
    slots, trials, waiting = case
    result, total = allot(slots, trials, waiting), sum(slots.values())
    lent = sum(count - 1 for count in result.values() if count)
    assert lent <= max(0, total - len(trials) - waiting), "each trial that waits has a slot before any is lent"


@given(clusters())
def test_a_trial_has_a_width_that_pays(case: Any) -> None:
    slots, trials, waiting = case
    for trial in trials:
        count = allot(slots, trials, waiting)[trial.key]
        assert count == 0 or count in trial.gains or (trial.has_little_left and count == trial.slots)


@given(clusters())
@example(
    (
        {"a": 5},
        [
            Running("0000"),
            Running("0001", 2, {1: 1.0, 2: 2.0}, 5.0),
            Running("0002", 4, {1: 1.0, 2: 1.5, 5: 2.0}, 4.0),
        ],
        0,
    )
)
def test_asking_again_changes_nothing(case: Any) -> None:
    slots, trials, waiting = case
    result = allot(slots, trials, waiting)
    if 0 not in result.values():
        assert allot(slots, applied(trials, result), waiting) == result


@given(clusters(), st.sampled_from("abcd"))
def test_one_slot_more_never_makes_anybody_wait(case: Any, node: str) -> None:
    slots, trials, waiting = case
    before, after = allot(slots, trials, waiting), allot({**slots, node: slots.get(node, 0) + 1}, trials, waiting)
    assert all(after[key] >= 1 for key, count in before.items() if count)


@given(clusters())
def test_a_trial_with_little_left_changes_only_for_others_that_wait(case: Any) -> None:
    slots, trials, waiting = case
    result = allot(slots, trials, waiting)
    crowded = sum(slots.values()) < waiting + sum(trial.slots for trial in trials)
    for trial in trials:
        if trial.seconds(trial.slots) < LITTLE and not crowded:
            assert result[trial.key] == trial.slots


@given(clusters())
def test_no_slot_is_idle_that_a_trial_could_use(case: Any) -> None:
    slots, trials, waiting = case
    result = allot(slots, trials, waiting)
    spare = sum(slots.values()) - waiting - sum(result.values())
    for trial in applied(trials, result):
        wider = trial.above(result[trial.key])
        assert (
            trial.seconds(max(1, result[trial.key])) < LITTLE
            or result[trial.key] == 0
            or wider is None
            or wider - result[trial.key] > spare
        )


def test_idle_slots_go_to_the_trial_that_would_end_last() -> None:
    gains = {1: 1.0, 2: 2.0, 4: 3.0}
    short, long = Running("0000", 1, gains, 100.0), Running("0001", 1, gains, 1000.0)
    assert allot({"a": 3}, [short, long], 0) == {"0000": 1, "0001": 2}
    assert allot({"a": 5}, [short, long], 0) == {"0000": 1, "0001": 4}
    assert allot({"a": 6}, [short, long], 0) == {"0000": 2, "0001": 4}
    assert allot({"a": 6}, [short, long], 2) == {"0000": 2, "0001": 2}, "two of them are for trials that wait"
    lent = Running("0000", 4, gains, 100.0)
    assert allot({"a": 5}, [lent, long], 0) == {"0000": 1, "0001": 4}, "the search ends much earlier so"
    flat = {1: 1.0, 2: 1.3}
    lent, other = Running("0000", 2, flat, 100.0), Running("0001", 1, flat, 110.0)
    assert allot({"a": 3}, [lent, other], 0) == {"0000": 2, "0001": 1}, "not worth a resize"


def test_of_equal_trials_the_one_with_idle_neighbours_is_widened() -> None:
    gains = {1: 1.0, 2: 2.0}
    trials = [Running("0000", 1, gains, 100.0, {"a": 1}), Running("0001", 1, gains, 100.0, {"b": 1})]
    assert allot({"a": 1, "b": 2}, trials, 0) == {"0000": 1, "0001": 2}
    assert allot({"a": 2, "b": 1}, trials, 0) == {"0000": 2, "0001": 1}


places = st.dictionaries(st.integers(0, 20), st.sampled_from("abc"), max_size=12)


@given(places, places, st.integers(0, 12))
def test_a_trial_keeps_its_slots_and_uses_the_fewest_nodes(
    free: dict[int, str], kept: dict[int, str], count: int
) -> None:
    free = {slot: node for slot, node in free.items() if slot not in kept}
    taken, node_of = choose(free, kept, count), {**free, **kept}
    assert len(set(taken)) == len(taken) == min(count, len(node_of)) if count > len(kept) else len(taken) == count
    assert set(taken) <= set(node_of)
    assert set(kept) <= set(taken) or set(taken) <= set(kept)
    usable = node_of if count > len(kept) else kept
    rooms = Counter(usable.values())
    must = set(kept.values()) if count > len(kept) else set()
    rest, nodes = len(taken) - sum(rooms[node] for node in must), len(must)
    for node in sorted(rooms.keys() - must, key=lambda name: -rooms[name]):
        if rest > 0:
            rest, nodes = rest - rooms[node], nodes + 1
    assert len({node_of[slot] for slot in taken}) == nodes


def test_the_fullest_nodes_come_first_and_the_smallest_that_is_enough_last() -> None:
    free = {0: "a", 1: "b", 2: "b", 3: "c", 4: "c", 5: "c"}
    assert sorted(choose(free, {}, 5)) == [1, 2, 3, 4, 5]
    assert sorted(choose(free, {}, 4)) == [0, 3, 4, 5]
    assert choose(free, {}, 1) == [0] and sorted(choose(free, {}, 2)) == [1, 2]
    assert sorted(choose(free, {6: "b"}, 4)) == [0, 1, 2, 6], "first its own node"
    assert sorted(choose({}, {0: "a", 1: "b", 2: "b"}, 2)) == [1, 2]


def test_a_trial_with_little_left_gives_back_last() -> None:
    gains = {1: 1.0, 2: 2.0}
    little, long = Running("0000", 2, gains, 6.0), Running("0001", 2, gains, 1000.0)
    assert little.has_little_left
    assert allot({"a": 3}, [little, long], 0) == {"0000": 2, "0001": 1}
    assert allot({"a": 2}, [little, long], 0) == {"0000": 1, "0001": 1}
