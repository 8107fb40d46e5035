"""Simulations in which slots come and go, and trials have more than one."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pytest

from tests.tuner.search.test_core import EPOCHS, LENT, Driver, core_of, metrics, search
from tuner.plan import space as spaces
from tuner.search.core import Core
from tuner.search.events import Allot, EpochEnded, SegmentBegan
from tuner.search.study import Study
from tuner.simulator.curves import Point, Recorded, Surface, Table
from tuner.simulator.result import Simulation
from tuner.simulator.simulate import replay, simulate
from tuner.simulator.world import Node

TEACHER = spaces.load("teacher")
WIDE: dict[str, Any] = {
    "trials": 3,
    "stopping": "none",
    "resources": {"workers": "1-4"},
    "trial": {"train": {"epochs": EPOCHS, "batch_size": 8, "shard_size": 2}},
}


def simulated(slots: int = 1, nodes: tuple[Node, ...] = (), **changes: object) -> tuple[Simulation, Study]:
    study = Study(None, search(**changes), TEACHER)
    return simulate(Core(study), Surface(metrics, seconds=60.0), slots, nodes), study


def scores(study: Study) -> list[tuple[object, ...]]:
    return [(t.number, t.params, t.state, t.values, dict(t.intermediate_values)) for t in study.trials()]


def allots(result: Simulation) -> list[tuple[float, Mapping[str, int]]]:
    return [(h.at, h.decision.widths) for h in result.log if isinstance(h.decision, Allot)]


def test_the_last_trials_get_the_idle_slots_and_end_sooner() -> None:
    """Three trials on two slots: the third one has both from its second epoch on."""
    result, study = simulated(2, **WIDE)
    fixed, beside = simulated(2, **{**WIDE, "resources": {"workers": 1}})
    assert allots(result) == [(60.0 * (EPOCHS + 1), {"0002": 2})]
    assert fixed.seconds == 60.0 * 2 * EPOCHS
    assert result.seconds == 60.0 * (EPOCHS + 1) + 30.0 * (EPOCHS - 1), "on two of four shards each: half the time"
    assert scores(study) == scores(beside), "durations change, scores do not"
    assert result.utilisation > fixed.utilisation


def test_speeds_that_were_recorded_count_for_more_than_shards() -> None:
    """On two workers the recorded trial was 1.2 times as fast: both of 4 s on one, and on two they take 4 / 1.2 s."""
    values = Study(None, search(**WIDE), TEACHER)
    proposals = [values.ask() for _ in range(3)]

    def recorded(point: Any, epoch: int, workers: int) -> Recorded:
        speed = {1: 10.0, 2: 12.0}[workers]
        times = {"time/workers": workers, "time/images_per_second": speed}
        return Recorded({**metrics(point.values, epoch), **times}, 600 / speed)

    curves = Table(
        Point(p.values, {e: recorded(p, e, 2 if e == 3 else 1) for e in range(1, EPOCHS + 1)}) for p in proposals if p
    )
    result = simulate(Core(Study(None, search(**WIDE), TEACHER)), curves, 2)
    ends = [h.at for h in result.log if isinstance(h.event, EpochEnded) and h.event.key == "0002"]
    assert [round(after - before, 6) for before, after in pairwise(ends)] == [50.0] * (EPOCHS - 1)
    known = [h.event.metrics for h in result.log if isinstance(h.event, EpochEnded) and h.event.key == "0002"]
    assert {metrics["time/workers"] for metrics in known[1:]} == {2}


def test_nodes_join_and_leave() -> None:
    """A trial whose node leaves goes on with the slots that it has left, or waits. Scores stay the same."""
    nodes = (Node("a", 1, 0.0, 100.0), Node("b", 2, 150.0, 400.0), Node("c", 1, 300.0))
    result, study = simulated(nodes=nodes, **WIDE)
    _, beside = simulated(2, **WIDE)
    assert scores(study) == scores(beside)
    at = [h.at for h in result.log if isinstance(h.event, EpochEnded)]
    assert at[0] == 60.0 and at[1] == pytest.approx(100.0 + 50.0 + 20.0), "0000 waited from 100 to 150"
    assert result.slots == 3 and len(result.busy) == 4
    assert result.available == pytest.approx(100 + 2 * 250 + (result.seconds - 300))
    assert 0.9 < result.utilisation <= 1.0 and all(busy >= 0 for busy in result.busy)
    assert result.busy[0] == pytest.approx(100.0)
    began = [h.event.key for h in result.log if isinstance(h.event, SegmentBegan)]
    assert sorted(began) == ["0000", "0001", "0002"], "a resize begins no segment of the fleet's"


def test_a_search_without_slots_for_good_ends_with_trials_that_wait() -> None:
    result, study = simulated(nodes=(Node("a", 1, 10.0, 100.0),), **WIDE)
    assert result.seconds == 100.0 and result.busy == [90.0]
    assert [trial.state.name for trial in study.trials()] == ["RUNNING"]


def test_a_cluster_that_changes_changes_no_fixed_search() -> None:
    nodes = (Node("a", 2, 0.0, 130.0), Node("b", 1, 50.0))
    result, study = simulated(nodes=nodes, trials=4, stopping="none", sampler="random")
    _, beside = simulated(1, trials=4, stopping="none", sampler="random")
    assert scores(study) == scores(beside) and not allots(result)


def test_an_elastic_search_is_repeated_by_its_sequence_numbers() -> None:
    driver = Driver(core_of(None, **LENT), elastic=True)
    driver.run()
    study = driver.core.study
    curves = Table(
        Point(
            trial.user_attrs["values"],
            {e: Recorded(told, 1.0) for (key, e), told in driver.told.items() if int(key) == trial.number},
        )
        for trial in study.trials()
    )
    again = Study(None, search(**LENT), TEACHER)
    result = replay(Core(again), curves, study)
    assert scores(again) == scores(study) and result.refused == 0 and result.slots == 3
    assert again.records() == study.records()
    assert any(content["event"] == "resize" for _, _, content in again.records())
