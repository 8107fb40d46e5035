"""How searches share a cluster: fair, complete, and without taking from who is alone. No Ray."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.fleet import accounts
from tuner.fleet.shares import Demand, allowances, shares

Nodes = list[dict[str, float]]


def demand(held: int, wanted: int, workers: int = 1, **per_worker: float) -> Demand:
    return Demand(held, wanted, workers, per_worker or {"CPU": 1.0})


workers = st.sampled_from(
    [{"CPU": 1.0}, {"CPU": 2.0}, {"CPU": 3.0}, {"CPU": 1.0, "GPU": 0.5}, {"CPU": 2.0, "GPU": 1.0}]
)
demands = st.builds(Demand, st.integers(0, 6), st.integers(0, 12), st.integers(1, 3), workers)
node = st.fixed_dictionaries({"CPU": st.integers(0, 8).map(float)}, optional={"GPU": st.integers(0, 4).map(float)})
clusters = st.lists(node, max_size=4)
many = st.dictionaries(st.sampled_from("abcd"), demands, max_size=4)


def fits(nodes: Nodes, worker: Mapping[str, float]) -> int:
    return sum(min(int(node.get(kind, 0) / need) for kind, need in worker.items()) for node in nodes)


@given(clusters, many)
def test_shares_are_within_the_cluster_and_within_what_is_wanted(nodes: Nodes, demands: dict[str, Demand]) -> None:
    fair = shares(nodes, demands)
    assert fair.keys() == demands.keys()
    assert all(0 <= fair[name] <= demands[name].wanted for name in demands)
    for kind in ("CPU", "GPU"):
        taken = sum(fair[name] * one.workers * one.per_worker.get(kind, 0) for name, one in demands.items())
        assert taken <= sum(node.get(kind, 0) for node in nodes) + 1e-6
    for name, one in demands.items():
        assert fair[name] * one.workers <= fits(nodes, one.per_worker), "each worker fits on one node"


@given(clusters, many)
def test_the_order_of_demands_and_of_nodes_does_not_matter(nodes: Nodes, demands: dict[str, Demand]) -> None:
    again = dict(reversed(demands.items()))
    assert shares(nodes, demands) == shares([dict(node) for node in nodes], again)


@given(st.integers(0, 12), st.lists(st.tuples(st.integers(0, 8), st.integers(0, 12)), min_size=1, max_size=4))
def test_equal_slots_are_shared_by_max_min_fairness(cpus: int, wishes: list[tuple[int, int]]) -> None:
    """On one node with slots of one CPU: all is used that is wanted, and nobody has two more than who lacks some."""
    wanting = {str(number): demand(held, wanted) for number, (held, wanted) in enumerate(wishes)}
    fair = shares([{"CPU": float(cpus)}], wanting)
    assert sum(fair.values()) == min(cpus, sum(one.wanted for one in wanting.values()))
    for name, one in wanting.items():
        if fair[name] < one.wanted:
            assert max(fair.values()) <= fair[name] + 1


@given(clusters, demands)
def test_who_is_alone_may_hold_all_that_it_wants(nodes: Nodes, only: Demand) -> None:
    assert allowances(nodes, {"a": only}) == {"a": max(1, only.wanted)}


@given(clusters, many)
def test_everybody_may_hold_a_slot_and_all_where_nobody_waits(nodes: Nodes, demands: dict[str, Demand]) -> None:
    allowed = allowances(nodes, demands)
    assert all(slots >= 1 for slots in allowed.values())
    content = {name: Demand(one.wanted, one.wanted, one.workers, one.per_worker) for name, one in demands.items()}
    assert allowances(nodes, content) == {name: max(1, one.wanted) for name, one in demands.items()}


@pytest.mark.parametrize(
    ("nodes", "demands", "expected"),
    [
        ([4], {"a": demand(4, 9), "b": demand(0, 9)}, {"a": 2, "b": 2}),
        ([3], {"a": demand(3, 9), "b": demand(0, 9)}, {"a": 2, "b": 1}),  # who holds more keeps the odd one
        ([3], {"a": demand(1, 9), "b": demand(2, 9)}, {"a": 1, "b": 2}),
        ([4], {"a": demand(3, 9), "b": demand(0, 1)}, {"a": 3, "b": 1}),  # who wants little leaves the rest
        ([4], {"a": demand(3, 9), "b": demand(1, 1)}, {"a": 9, "b": 1}),  # "b" waits for nothing
        (
            [8],
            {"a": demand(4, 4, 2), "b": demand(0, 9)},
            {"a": 2, "b": 9},
        ),  # by resources: 4 CPUs each; "a" never waits
        ([1], {"a": demand(1, 2), "b": demand(0, 2)}, {"a": 1, "b": 1}),  # one slot in any case; "b" waits for its end
        ([2, 2], {"a": demand(0, 9, 1, CPU=2), "b": demand(0, 9, 2)}, {"a": 1, "b": 1}),
    ],
)
def test_allowances(nodes: list[int], demands: dict[str, Demand], expected: dict[str, int]) -> None:
    assert allowances([{"CPU": float(cpus)} for cpus in nodes], demands) == expected


def test_a_lease_runs_out_and_its_request_with_it() -> None:
    ledger, nodes = accounts.Ledger(), [{"CPU": 4.0}]
    assert ledger.renew("dead", demand(4, 9), nodes, 0.0) == 9
    assert ledger.renew("alive", demand(0, 3), nodes, 10.0) == 2
    assert len(ledger.bundles()) == 12
    assert ledger.renew("alive", demand(0, 3), nodes, accounts.LEASE - 0.1) == 2
    assert ledger.renew("alive", demand(0, 3), nodes, accounts.LEASE) == 3, "the other driver has not come back"
    assert ledger.bundles() == [{"CPU": 1.0}] * 3
    ledger.leave("alive")
    assert ledger.empty and ledger.bundles() == []


@pytest.mark.parametrize(
    ("over", "taken_back", "failed", "ends"),
    [
        (True, True, 0, True),
        (True, False, 1, False),
        (True, False, accounts.TAKE_BACK_TRIES, True),
        (False, True, 0, False),
        (False, False, accounts.TAKE_BACK_TRIES, False),
    ],
)
def test_the_accounts_end_once_their_request_is_taken_back(
    over: bool, taken_back: bool, failed: int, ends: bool
) -> None:
    assert accounts.may_end(over, taken_back, failed) is ends
