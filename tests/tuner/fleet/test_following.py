"""The number of slots follows the cluster: which begin, which end, and what the core is told. No Ray."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.fleet.claims import SlotState
from tuner.fleet.following import Changes, changes, number_of_slots, slots_seen
from tuner.plan import space, spec
from tuner.plan.reading import changed
from tuner.plan.resources import Resources
from tuner.search.core import Core
from tuner.search.study import Study


def slot(
    index: int, trial: str | None = None, node: str = "x", retiring: bool = False, over: bool = False
) -> SlotState:
    return SlotState(index, node, (node,), trial, retiring, over)


@pytest.mark.parametrize(
    ("nodes", "workers", "useful", "allowance", "number"),
    [
        ([2, 2], 1, 9, None, 4),
        ([2, 2], 1, 3, None, 3),
        ([2, 2], 1, 9, 2, 2),
        ([2, 2], 1, 1, 2, 1),
        ([3, 3], 2, 9, None, 3),  # the third slot has a worker on each node
        ([1], 2, 9, 1, 0),  # nothing fits, whatever may be held
        ([], 1, 9, None, 0),
        ([5], "2-4", 9, None, 2),  # a slot has the smallest width
    ],
)
def test_the_number_of_slots(
    nodes: list[int], workers: int | str, useful: int, allowance: int | None, number: int
) -> None:
    cluster = [{"CPU": float(cpus)} for cpus in nodes]
    assert number_of_slots(cluster, Resources(workers=workers), useful, allowance) == number


@pytest.mark.parametrize(("most", "number"), [(3, 3), (2, 2), (None, 4)])
def test_a_cap_that_is_raised_or_removed_while_the_search_runs_counts_at_once(most: int | None, number: int) -> None:
    launched = spec.parse({"trials": 9, "resources": {"max_slots": 1}})
    core, cluster = Core(Study(None, launched, space.load("teacher"))), [{"CPU": 4.0}]
    assert number_of_slots(cluster, launched.resources, core.useful_slots, None) == 1
    core.study.take_over(changed(launched, {"resources.max_slots": most}))
    assert number_of_slots(cluster, launched.resources, core.useful_slots, None) == number


@pytest.mark.parametrize(
    ("count", "kept", "ending", "up", "expected"),
    [
        (2, [], [], [], Changes(begin=(0, 1))),
        (3, [0, 2], [1], [], Changes(begin=(3,))),  # slot 1 still has its workers
        (3, [0, 2], [], [], Changes(begin=(1,))),
        (2, [0, 1], [], [slot(0, "a"), slot(1)], Changes()),
        (2, [0, 1, 2], [], [slot(0), slot(1, "a")], Changes(retire=(2,))),  # without workers
        (1, [0, 1], [], [slot(0), slot(1, "a")], Changes(retire=(0,))),  # idle
        (2, [0, 1, 2], [], [slot(0, "a"), slot(1, "a"), slot(2, "b")], Changes(retire=(1,))),  # lent
        (1, [0, 1, 2], [], [slot(0, "a"), slot(1, "a"), slot(2, "b")], Changes(retire=(1, 2))),
        (2, [0, 1, 2], [], [slot(0, "a"), slot(1, "a"), slot(2, "b", over=True)], Changes(retire=(2,))),  # free soon
        (0, [0, 1], [2], [slot(0, "a"), slot(1, "b"), slot(2, "c")], Changes(retire=(0, 1))),
    ],
)
def test_which_slots_begin_and_end(
    count: int, kept: list[int], ending: list[int], up: list[SlotState], expected: Changes
) -> None:
    assert changes(count, kept, ending, up) == expected


def test_a_slot_that_lost_its_node_ends_before_one_that_starts_on_another() -> None:
    assert changes(1, [0, 1], [], [], starting=[1]) == Changes(retire=(0,))
    assert changes(1, [0, 1, 2], [], [slot(2)], starting=[1]) == Changes(retire=(0, 1))


slots_of = st.dictionaries(st.integers(0, 8), st.tuples(st.sampled_from([None, "a", "b", "c"]), st.booleans()))


@given(st.integers(0, 9), slots_of, st.sets(st.integers(9, 12)))
def test_after_the_changes_the_number_is_right(
    count: int, slots: dict[int, tuple[str | None, bool]], ending: set[int]
) -> None:
    up = [slot(index, trial) for index, (trial, is_up) in slots.items() if is_up]
    todo = changes(count, slots.keys(), ending, up)
    assert len(slots) + len(todo.begin) - len(todo.retire) == count
    assert not {*todo.begin} & (slots.keys() | ending) and {*todo.retire} <= slots.keys()
    left = slots.keys() - {*todo.retire}
    trained = {state.trial for state in up if state.trial}
    if len(trained) <= count:
        assert trained == {state.trial for state in up if state.trial and state.slot in left}, "each trial keeps a slot"


def test_what_the_core_is_told_of_the_slots() -> None:
    up = [
        slot(0, "a"),
        slot(1, "a", "y"),
        slot(2),
        slot(3, None, "y", True),
        slot(4, "untrained"),
        slot(5, "b", "x", True),
    ]
    assert slots_seen(up, ["a", "b"]) == ({"x": 2, "y": 1}, {"a": {"x": 1, "y": 1}})
    assert slots_seen([], ["a"]) == ({}, {})
    assert slots_seen([slot(0, "a", over=True)], ["a"]) == ({"x": 1}, {}), "a was paused, and goes on elsewhere"
    assert slots_seen(up, ["b"]) == ({"x": 2, "y": 1}, {}), "a has ended: its workers are about to leave it"
