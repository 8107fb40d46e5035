"""Simulations: virtual time, slots, refusals, replays of runs, and pools."""

import random
from pathlib import Path
from typing import Any

import pytest

from tests.tuner.search.test_core import EPOCHS, Driver, Halves, metrics, search
from tests.tuner.simulator.conftest import run_on_one_slot
from trainables.config.errors import UserError
from tuner.plan import space as spaces
from tuner.runs.run import Run
from tuner.search.core import Core
from tuner.search.events import (
    EpochEnded,
    Pause,
    PauseWanted,
    SegmentLost,
    Start,
    Stop,
    TrialEnded,
    WorkWanted,
)
from tuner.search.study import Study
from tuner.simulator import files
from tuner.simulator.curves import Curves, Point, Recorded, Surface, Table
from tuner.simulator.pool import PoolStudy, distance
from tuner.simulator.result import Simulation, Started
from tuner.simulator.simulate import replay, simulate

TEACHER = spaces.load("teacher")


def surface() -> Surface:
    return Surface(metrics, seconds=10.0)


def simulated(curves: Curves, slots: int = 1, **changes: object) -> tuple[Simulation, Study]:
    study = Study(None, search(**changes), TEACHER)
    return simulate(Core(study), curves, slots), study


def outcome(study: Study) -> list[tuple[Any, ...]]:
    return [
        (t.number, t.params, t.user_attrs["values"], t.state, t.values, dict(t.intermediate_values))
        for t in study.trials()
    ]


def heard(study: Study) -> list[tuple[str, dict[str, Any]]]:
    return [(key, content) for _, key, content in study.records()]


def test_a_finished_run_is_repeated_on_one_slot(recorded: tuple[Run, Study]) -> None:
    """The same proposals, the same stops, the same order of events."""
    run, study = recorded
    result, again = simulated(files.of_run(run, study))
    assert outcome(again) == outcome(study)
    assert heard(again) == heard(study)
    assert result.refused == 0 and not result.ended
    stops = [happening for happening in result.log if isinstance(happening.decision, Stop)]
    assert len(stops) >= 2
    told = [trial.user_attrs["last_metric_at"] for trial in study.trials()]
    assert result.seconds == pytest.approx(told[-1] - 1000.0) and result.utilisation == pytest.approx(1.0)


def test_a_run_is_repeated_from_a_file_of_its_curves(recorded: tuple[Run, Study], tmp_path: Path) -> None:
    run, study = recorded
    files.write(tmp_path / "curves.parquet", files.of_run(run, study).points)
    _, again = simulated(files.read(tmp_path / "curves.parquet"))
    assert heard(again) == heard(study) and outcome(again) == outcome(study)


def test_a_run_on_three_slots_is_repeated_by_its_sequence_numbers(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", "search", search().plain(), 5)
    study = Study(run.journal, search(), TEACHER)
    Driver(Core(study)).run()
    again = Study(None, search(), TEACHER)
    result = replay(Core(again), files.of_run(run, study), study)
    assert result.slots == 3 and result.refused == 0
    assert outcome(again) == outcome(study)
    assert heard(again) == heard(study)
    _, other = simulated(files.of_run(run, study))
    assert heard(other) != heard(study), "on one slot the order is another"


def test_pauses_losses_and_restarts_are_repeated() -> None:
    study = Study(None, search(), TEACHER)
    core = Core(study, Halves(search()))
    decisions: list[str] = []

    def tell(key: str, epoch: int) -> None:
        values = study.trial(key).user_attrs["values"]
        decisions.append(type(core.hear(EpochEnded(key, metrics(values, epoch)))).__name__)

    for key in ("0000", "0001", "0002"):
        core.hear(WorkWanted(3, 3))
        tell(key, 1)
    start = core.hear(WorkWanted(3, 3))
    assert isinstance(start, Start) and start.segment == 2
    promoted = start.proposal.key
    tell(promoted, 2)
    core.hear(SegmentLost(promoted, "its node went"))
    core.hear(WorkWanted(3, 3))
    core.hear(PauseWanted(promoted))
    tell(promoted, 3)
    assert decisions == ["Pause", "Pause", "Pause", "Continue", "Pause"]
    curves = Table(
        Point(t.user_attrs["values"], {e: Recorded(metrics(t.user_attrs["values"], e), 1.0) for e in (1, 2, 3)})
        for t in study.trials()
    )
    again = Study(None, search(), TEACHER)
    result = replay(Core(again, Halves(search())), curves, study)
    assert heard(again) == heard(study)
    told = [happening.decision for happening in result.log if isinstance(happening.event, EpochEnded)]
    assert [type(decision).__name__ for decision in told] == decisions


def test_a_replay_needs_the_order_of_events(recorded: tuple[Run, Study]) -> None:
    run, study = recorded
    core = Core(Study(None, search(seed=6), TEACHER))
    result = replay(core, files.of_run(run, study), study)
    assert result.refused > 0, "another seed proposes what has no curve"
    with pytest.raises(UserError, match="simulate it with --slots 1"):
        replay(Core(Study(None, search(), TEACHER)), surface(), Study(None, search(), TEACHER))


@pytest.mark.parametrize("every", [2, 4])
def test_a_run_that_did_not_evaluate_each_epoch_is_repeated(tmp_path: Path, every: int) -> None:
    """Each epoch that is a multiple of `every_epochs` has a curve, and the last one."""
    spec = search(trial={"train": {"epochs": EPOCHS}, "evaluation": {"every_epochs": every}})
    run = Run.create(tmp_path / "run", "search", spec.plain(), 5)
    study = Study(run.journal, spec, TEACHER)
    run_on_one_slot(study, every)
    assert max((list(t.intermediate_values) for t in study.trials()), key=len) == sorted({*range(every, 7, every), 6})
    for repeat in (simulate, lambda core, curves: replay(core, curves, study)):
        again = Study(None, spec, TEACHER)
        result = repeat(Core(again), files.of_run(run, study))
        assert result.refused == 0 and not result.ended
        assert outcome(again) == outcome(study) and heard(again) == heard(study)


def test_a_replay_with_other_epochs_is_refused(recorded: tuple[Run, Study]) -> None:
    run, study = recorded
    other = search(trial={"train": {"epochs": EPOCHS}, "evaluation": {"every_epochs": 2}})
    with pytest.raises(UserError, match="judged epoch 1 of trial 0000, and epoch 2 comes next here"):
        replay(Core(Study(None, other, TEACHER)), files.of_run(run, study), study)


def test_a_replay_of_a_run_that_an_earlier_version_began(tmp_path: Path) -> None:
    """Its first trials have no records: they were written before there were any."""
    study = Study(tmp_path / "journal.log", search(), TEACHER)
    proposal = study.ask()
    assert proposal is not None
    study.observe(proposal.key, last := {**metrics(proposal.values, EPOCHS), "epoch": EPOCHS})
    study.tell(proposal.key, last, None, {})
    run_on_one_slot(study)
    assert len(study.trials()) == 9 and study.records()
    with pytest.raises(UserError, match=r"such as trial 0000, was written before the order .* simulate it with"):
        replay(Core(Study(None, search(), TEACHER)), surface(), study)


@pytest.mark.parametrize("slots", [1, 2, 4])
def test_virtual_time_and_slots(slots: int) -> None:
    result, study = simulated(surface(), slots, trials=8, stopping="none")
    epochs = 8 * EPOCHS
    assert result.seconds == 10.0 * epochs / slots and result.utilisation == 1.0
    assert result.busy == [10.0 * epochs / slots] * slots
    times = [happening.at for happening in result.log]
    assert times == sorted(times)
    running = most = 0
    for happening in result.log:
        running += isinstance(happening.decision, Started) - isinstance(happening.event, TrialEnded)
        most = max(most, running)
    assert most == slots
    assert [t.user_attrs["last_metric_at"] - t.user_attrs["started_at"] for t in study.trials()] == [60.0] * 8


def test_more_slots_than_trials_are_idle() -> None:
    result, _ = simulated(surface(), 4, trials=1, stopping="none")
    assert result.utilisation == 0.25


def test_a_simulation_is_the_same_each_time() -> None:
    (first, one), (second, two) = (simulated(surface(), 3) for _ in range(2))
    assert first == second and outcome(one) == outcome(two)


def cut(study: Study, last: int) -> Table:
    """The curves of a study's trials until an epoch, as if each had been stopped there."""
    return Table(
        Point(
            t.user_attrs["values"], {e: Recorded(metrics(t.user_attrs["values"], e), 1.0) for e in range(1, last + 1)}
        )
        for t in study.trials()
    )


def test_past_a_recorded_stop_a_trial_ends_as_stopped_and_the_refusal_is_counted() -> None:
    _, whole = simulated(surface(), stopping="none", sampler="random", trials=6)
    result, study = simulated(cut(whole, 3), stopping="none", sampler="random", trials=6)
    assert result.refused == 6 and sorted(result.ended) == [f"{n:04d}" for n in range(6)]
    assert all("the curve ends with epoch 3" in why for why in result.ended.values())
    for trial in study.trials():
        assert (trial.state.name, max(trial.intermediate_values)) == ("PRUNED", 3)
        assert trial.values == [metrics(trial.user_attrs["values"], 3)["knn_top1"]]
    assert result.seconds == 18.0


def test_a_trial_without_a_curve_has_failed_and_the_search_goes_on() -> None:
    _, whole = simulated(surface(), stopping="none", sampler="random")
    curves = Table([point for point in cut(whole, EPOCHS).points if "se" not in point.values.values()])
    known = [t.number for t in whole.trials() if "se" not in t.user_attrs["values"].values()]
    assert 0 < len(known) < 9
    result, study = simulated(curves, stopping="none", sampler="random")
    assert [t.number for t in study.trials() if t.state.name == "COMPLETE"] == known
    assert result.refused == 9 - len(known)
    for key in result.ended:
        trial = study.trial(key)
        assert trial.state.name == "FAIL" and trial.user_attrs["error"].startswith(
            "TrialFailure: not recorded: no curve"
        )


def test_a_recorded_failure_fails_again() -> None:
    _, whole = simulated(surface(), trials=2, stopping="none")
    first, second = cut(whole, EPOCHS).points
    broken = Point(first.values, {1: first.epochs[1]}, error="TrialFailure: loss is nan")
    result, study = simulated(Table([broken, second]), trials=2, stopping="none")
    assert [t.state.name for t in study.trials()] == ["FAIL", "COMPLETE"]
    assert study.trial("0000").user_attrs["error"] == "TrialFailure: loss is nan" and result.refused == 0


def test_curves_without_the_objective_are_refused() -> None:
    with pytest.raises(UserError, match="the curves have no 'knn_top1'"):
        simulated(Surface(lambda values, epoch: {"loss": 1.0}))


def test_a_space_at_fault_ends_a_simulation(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def suggest(trial):\n    return {'optim.lr': -1.0}\n")
    study = Study(None, search(), spaces.load(str(tmp_path / "mine.py")))
    with pytest.raises(UserError, match="mine.py"):
        simulate(Core(study), surface())


def test_a_stopper_that_pauses_in_virtual_time() -> None:
    study = Study(None, search(trials=3), TEACHER)
    result = simulate(Core(study, Halves(search(trials=3))), surface(), 2)
    pauses = [happening for happening in result.log if isinstance(happening.decision, Pause)]
    starts = [h.decision for h in result.log if isinstance(h.decision, Started)]
    assert len(pauses) == 3 and [start.segment for start in starts] == [1, 1, 1, 2, 2, 2]
    best = max(study.trials(), key=lambda trial: trial.intermediate_values[1])
    assert starts[3].key == f"{best.number:04d}", "the best one is promoted, the others go on at the end"
    assert {trial.state.name for trial in study.trials()} == {"COMPLETE"}
    told = [h.event.metrics["epoch"] for h in result.log if isinstance(h.event, EpochEnded)]
    assert len(told) == 3 * EPOCHS, "a segment tells new epochs only"


def test_a_pool_gives_each_recorded_trial_once() -> None:
    _, whole = simulated(surface(), trials=20, stopping="none", sampler="random")
    points = [Point(t.user_attrs["values"], cut(whole, EPOCHS).points[0].epochs, t.params) for t in whole.trials()]
    curves = Table(
        Point(p.values, {e: Recorded(metrics(p.values, e), 1.0) for e in range(1, EPOCHS + 1)}, p.params)
        for p in random.Random(1).sample(points, 20)
    )
    spec = search(trials=30, seed=77)
    study = PoolStudy(spec, TEACHER, curves.points)
    result = simulate(Core(study), curves, 2)
    assert result.refused == 0 and len(study.trials()) == 20, "the pool is exhausted"
    assert sorted(map(repr, (t.params.items() for t in study.trials()))) == sorted(
        map(repr, (t.params.items() for t in whole.trials()))
    )
    firsts = [t.params for t in study.trials()[: len(TEACHER.known_good)]]
    assert firsts == [dict(known) for known in TEACHER.known_good], "what is recorded is taken as it is"


def test_the_nearest_recorded_trial() -> None:
    study = Study(None, search(sampler="random"), TEACHER)
    for _ in range(9):
        study.ask()
    trial = study.trials()[-1]
    same = distance(trial.params, trial.params, trial.distributions)
    assert same == (0, 0.0)
    name = next(n for n in ("student_share", "se_updated", "sts_p") if n in trial.params)
    kind = trial.distributions[name]
    ends = distance({**trial.params, name: kind.low}, {**trial.params, name: kind.high}, trial.distributions)
    assert ends == (0, pytest.approx(1.0))
    middle = (kind.low * kind.high) ** 0.5 if kind.log else (kind.low + kind.high) / 2
    assert distance({**trial.params, name: kind.low}, {**trial.params, name: middle}, trial.distributions)[1] == (
        pytest.approx(0.5)
    )
    assert distance(trial.params, {**trial.params, "placement": "other"}, trial.distributions) == (1, 0.0)
    assert distance(trial.params, {**trial.params, "more": 1}, trial.distributions) == (1, 0.0)
    assert distance(trial.params, {}, trial.distributions) == (len(trial.params), 0.0)


def test_a_pool_needs_suggested_values() -> None:
    with pytest.raises(UserError, match="suggested values"):
        PoolStudy(search(), TEACHER, [Point({}, {})])
