"""Simulations: virtual time, slots, refusals, replays of runs, pools, and the command."""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.tuner.search.test_core import Driver, Halves, metrics
from trainables.config.errors import UserError
from tuner.commands import main as cli
from tuner.plan import space as spaces
from tuner.plan import spec as specs
from tuner.runs.run import Run
from tuner.search.core import Core
from tuner.search.events import (
    EpochEnded,
    Pause,
    PauseWanted,
    Resize,
    SegmentBegan,
    SegmentLost,
    Start,
    Stop,
    TrialEnded,
    WidthWanted,
    WorkWanted,
)
from tuner.search.study import Study
from tuner.simulator import files
from tuner.simulator.curves import Curves, Point, Recorded, Surface, Table
from tuner.simulator.pool import PoolStudy, distance
from tuner.simulator.simulate import Simulation, replay, simulate

TEACHER = spaces.load("teacher")
EPOCHS = 6


def search(**changes: object) -> specs.SearchSpec:
    return specs.parse(
        {
            "trials": 9,
            "seed": 5,
            "sampler": {"startup_trials": 3},
            "stopping": {"grace_epochs": 1, "reduction": 2},
            "trial": {"train": {"epochs": EPOCHS}},
            **changes,
        }
    )


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


def run_on_one_slot(study: Study) -> None:
    """A search without a simulator: what the fleet does, one trial at a time."""
    core, now = Core(study), 1000.0
    while isinstance(start := core.hear(WorkWanted(1, 1)), Start):
        key, values, last = start.proposal.key, start.proposal.values, {}
        core.hear(SegmentBegan(key, now))
        for epoch in range(1, EPOCHS + 1):
            now += 2.0 + epoch
            last = metrics(values, epoch)
            if isinstance(core.hear(EpochEnded(key, last)), Stop):
                break
        core.hear(TrialEnded(key, last, None, {"last_metric_at": now}))


@pytest.fixture
def recorded(tmp_path: Path) -> tuple[Run, Study]:
    """A finished run of a search on one slot."""
    run = Run.create(tmp_path / "run", "search", search().plain(), 5)
    study = Study(run.journal, search(), TEACHER)
    run_on_one_slot(study)
    return run, study


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


def test_pauses_losses_resizes_and_restarts_are_repeated() -> None:
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
    core.hear(WidthWanted(promoted, 2))
    tell(promoted, 2)
    core.hear(SegmentLost(promoted, "its node went"))
    core.hear(WorkWanted(3, 3))
    core.hear(PauseWanted(promoted))
    tell(promoted, 3)
    assert decisions == ["Pause", "Pause", "Pause", "Resize", "Pause"]
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
        running += isinstance(happening.decision, Start) - isinstance(happening.event, TrialEnded)
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
    starts = [h.decision for h in result.log if isinstance(h.decision, Start)]
    assert len(pauses) == 3 and [start.segment for start in starts] == [1, 1, 1, 2, 2, 2]
    best = max(study.trials(), key=lambda trial: trial.intermediate_values[1])
    assert starts[3].proposal.key == f"{best.number:04d}", "the best one is promoted, the others go on at the end"
    assert {trial.state.name for trial in study.trials()} == {"COMPLETE"}
    told = [h.event.metrics["epoch"] for h in result.log if isinstance(h.event, EpochEnded)]
    assert len(told) == 3 * EPOCHS, "a segment tells new epochs only"


def test_a_resize_keeps_its_slot() -> None:
    core = Core(Study(None, search(trials=1, stopping="none"), TEACHER))

    class Wider(Surface):
        def _find(self, values: Mapping[str, Any], epoch: int) -> Recorded:
            if epoch == 2:
                core.hear(WidthWanted("0000", 2))
            return super()._find(values, epoch)

    result = simulate(core, Wider(metrics))
    assert [type(h.decision) for h in result.log if isinstance(h.event, EpochEnded)].count(Resize) == 1
    assert core.study.trial("0000").state.name == "COMPLETE" and result.busy == [6.0]


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


# the command


@pytest.fixture
def written(recorded: tuple[Run, Study], tmp_path: Path) -> tuple[str, str]:
    """A search's file, and a run of that search."""
    path = tmp_path / "search.yaml"
    path.write_text(yaml.safe_dump(search().plain()))
    return str(path), str(recorded[0].path)


def test_the_command_prints_a_line_a_trial(
    written: tuple[str, str], recorded: tuple[Run, Study], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["simulate", written[0], "--curves", written[1]]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:9]] == [f"{number:04d}" for number in range(9)]
    states = {"COMPLETE": "complete", "PRUNED": "stopped"}
    assert [line.split()[1] for line in lines[:9]] == [states[t.state.name] for t in recorded[1].trials()]
    best = recorded[1].best(1)[0]
    assert lines[9] == f"best: trial {best.number:04d}, knn_top1 {best.values[0]:.4f}"
    assert lines[10].startswith("9 trials   ") and lines[10].endswith("slots 100% busy   0 look-ups refused")


@pytest.mark.parametrize("options", [[], ["--replay"], ["--pool", "--slots", "2"], ["--set", "seed=6"]])
def test_the_command_as_json(written: tuple[str, str], options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    status = cli.main(["simulate", written[0], "--curves", written[1], "--json", *options])
    state = json.loads(capsys.readouterr().out)
    assert status == (state["best"] is None)
    assert state["version"] == 1 and state["slots"] == (2 if "--slots" in options else 1)
    assert len(state["trials"]) == 9 and state["log"][0]["decision"] == "Start"
    assert (state["refused"] > 0) == ("seed=6" in options) or "--pool" in options
    refused = [trial["ended"] for trial in state["trials"] if trial["ended"]]
    assert len(refused) == state["refused"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--slots", "0"], "--slots"),
        (["--pool", "--replay"], "--replay: repeats"),
        (["--set", "trial.train.epoch=3"], "trial.train.epochs"),
        (["--set", "seed=-1"], "seed"),
    ],
)
def test_errors_of_the_user_are_named(
    written: tuple[str, str], options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = cli.main(["simulate", written[0], "--curves", written[1], *options])
    except SystemExit as end:
        status = int(end.code or 0)
    assert status == 2 and words in capsys.readouterr().err


def test_curves_that_are_none(written: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, words in (("none", "no such file of curves"), (".", "no run directory"), ("search.yaml", "no Parquet")):
        assert cli.main(["simulate", written[0], "--curves", str(tmp_path / name)]) == 2
        assert words in capsys.readouterr().err
    files.write(tmp_path / "curves.parquet", [])
    assert cli.main(["simulate", written[0], "--curves", str(tmp_path / "curves.parquet"), "--replay"]) == 2
    assert "only a run knows its order" in capsys.readouterr().err
    assert cli.main(["simulate", written[0], "--curves", str(tmp_path / "curves.parquet")]) == 1
    assert "no trial was completed" in capsys.readouterr().err
