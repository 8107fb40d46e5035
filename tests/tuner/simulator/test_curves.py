"""Curves: what is recorded is found, what is not is refused and counted; Parquet files and runs as sources."""

import json
from pathlib import Path

import pytest

from trainables.config.errors import UserError
from tuner.plan import space as spaces
from tuner.plan import spec as specs
from tuner.runs.run import Run
from tuner.search.study import Study
from tuner.simulator import files
from tuner.simulator.curves import NotRecorded, Point, Recorded, RecordedFailure, Surface, Table, identity

VALUES = {"teacher.momentum.base": 0.99, "teacher.placement": "whole"}


def point(*scores: float, **changes: object) -> Point:
    epochs = {n: Recorded({"epoch": n, "knn_top1": score}, 2.5) for n, score in enumerate(scores, start=1)}
    return Point({**VALUES, **changes}, epochs, {"base": 0.5})


def test_recorded_epochs_are_found_and_others_refused() -> None:
    table = Table([point(0.1, 0.2), point(0.7, lr=1.0)])
    assert table.find(VALUES, 2) == Recorded({"epoch": 2, "knn_top1": 0.2}, 2.5)
    assert table.find({"lr": 1, **dict(reversed(VALUES.items()))}, 1).metrics["knn_top1"] == 0.7
    for values, epoch, words in (
        (VALUES, 3, "the curve ends with epoch 2"),
        ({**VALUES, "lr": 2.0}, 1, "no curve is recorded"),
        ({"teacher.momentum.base": 0.99}, 1, "no curve is recorded"),
    ):
        with pytest.raises(NotRecorded, match=words):
            table.find(values, epoch)
    assert table.refused == 3


def test_a_missing_epoch_is_refused_not_interpolated() -> None:
    table = Table([Point(VALUES, {1: Recorded({}, 1), 3: Recorded({}, 1)})])
    with pytest.raises(NotRecorded, match="epoch 2 is missing"):
        table.find(VALUES, 2)
    table.find(VALUES, 3)


def test_a_recorded_failure_is_no_refusal() -> None:
    table = Table([Point(VALUES, {1: Recorded({}, 1)}, error="TrialFailure: loss is nan")])
    with pytest.raises(RecordedFailure, match="loss is nan"):
        table.find(VALUES, 2)
    assert table.refused == 0
    with pytest.raises(NotRecorded):
        table.find(VALUES, 3)


def test_a_failure_belongs_to_the_next_evaluated_epoch() -> None:
    table = Table([Point(VALUES, {2: Recorded({}, 1)}, error="TrialFailure: loss is nan", every=2)])
    with pytest.raises(RecordedFailure, match="loss is nan"):
        table.find(VALUES, 4)
    with pytest.raises(NotRecorded):
        table.find(VALUES, 6)


def test_two_trials_with_the_same_values_share_a_curve() -> None:
    table = Table([point(0.1), point(0.9, 0.2, 0.3)])
    assert [table.find(VALUES, epoch).metrics["knn_top1"] for epoch in (1, 2, 3)] == [0.1, 0.2, 0.3]
    assert len(table.points) == 1


def test_a_surface_is_a_function() -> None:
    surface = Surface(lambda values, epoch: {"knn_top1": values["x"] * epoch}, seconds=3)
    assert surface.find({"x": 2}, 4) == Recorded({"knn_top1": 8, "epoch": 4}, 3)
    assert surface.points == []


def test_identity_of_values() -> None:
    assert identity({"b": [1, 2], "a": 1.0}) == identity({"a": 1, "b": [1, 2]})
    assert identity({"a": 1}) != identity({"a": 1.5}) != identity({"a": "1"})


def test_a_parquet_file_gives_back_what_was_written(tmp_path: Path) -> None:
    points = [point(0.1, 0.2), point(0.3, lr=0.5), Point({"x": [1, "a"]}, point(0.4).epochs)]
    files.write(tmp_path / "curves.parquet", points)
    assert files.read(tmp_path / "curves.parquet").points == points


def test_a_parquet_file_says_what_its_trials_have_in_common(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    path, trial = tmp_path / "curves.parquet", specs.parse({}).plain()["trial"]
    assert isinstance(trial, dict)
    files.write(path, [point(0.1)], trial)
    assert files.read(path).trial == trial
    files.write(path, [point(0.1)])
    assert files.read(path).trial is None
    table = parquet.read_table(path)
    for metadata in ({"trial": "[]", "format": "2"}, {"trial": "{", "format": "2"}, {"trial": "{}", "format": "x"}):
        parquet.write_table(table.replace_schema_metadata(metadata), path)
        with pytest.raises(UserError, match=r"curves.parquet: the metadata of its schema need 'trial'"):
            files.read(path)
    del trial["optim"]["lr_in_buffer"]  # a key that format 1 did not have
    metadata = {"trial": json.dumps(trial), "format": "1"}
    parquet.write_table(pyarrow.table(table).replace_schema_metadata(metadata), path)
    common = files.read(path).trial
    assert common is not None and common["optim"]["lr_in_buffer"] is False


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"values": ["{}"], "epoch": [1], "metrics": ["{}"]}, "has no column 'seconds'"),
        ({"values": ["{"], "epoch": [1], "metrics": ["{}"], "seconds": [1.0]}, "row 0 needs values"),
        ({"values": ["[]"], "epoch": [1], "metrics": ["{}"], "seconds": [1.0]}, "row 0 needs values"),
        ({"values": ["{}"], "epoch": [0], "metrics": ["{}"], "seconds": [1.0]}, "an epoch from 1"),
        ({"values": ["{}"], "epoch": [1], "metrics": ["{}"], "seconds": [None]}, "row 0 needs"),
        ({"values": ["{}"], "epoch": [1], "metrics": ["{}"], "seconds": [float("nan")]}, "row 0 needs"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, columns: dict, words: str) -> None:
    import pyarrow
    from pyarrow import parquet

    path = tmp_path / "curves.parquet"
    parquet.write_table(pyarrow.table(columns), path)
    with pytest.raises(UserError, match=words) as error:
        files.read(path)
    assert str(error.value).startswith(f"{path}: ")


def test_no_file_of_curves(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file of curves"):
        files.read(tmp_path / "none.parquet")
    (tmp_path / "text").write_text("no Parquet")
    with pytest.raises(UserError, match="is no Parquet file"):
        files.read(tmp_path / "text")


def header(path: Path, values: dict) -> None:
    """A checkpoint without tensors."""
    content = json.dumps({"__metadata__": {"values": json.dumps(values), "sha256": ""}}).encode()
    path.write_bytes(len(content).to_bytes(8, "little") + content)


def test_the_curves_of_a_run(tmp_path: Path) -> None:
    """Metrics and times of epochs from the checkpoints; without them the objective, and equal parts of the time."""
    spec = specs.parse({"trials": 3, "space": "momentum", "trial": {"train": {"epochs": 2}}})
    run = Run.create(tmp_path / "run", "search", spec.plain(), 0)
    study = Study(run.journal, spec, spaces.load("momentum"))
    for number in range(3):
        proposal = study.ask()
        assert proposal is not None
        study.begin(proposal.key, 100.0)
        for epoch in (1, 2) if number < 2 else ():
            study.observe(proposal.key, {"epoch": epoch, "knn_top1": 0.1 * epoch})
        last = {"epoch": 2, "knn_top1": 0.2, "loss": 1.5, "time/measured_at": 110.0}
        study.tell(
            proposal.key, last if number < 2 else {}, None if number < 2 else "broken", {"last_metric_at": 110.0}
        )
        run.trial_folder(proposal.key).mkdir(parents=True)
    history = [
        {"epoch": 0.0, "knn_top1": 0.0},
        {"epoch": 1.0, "loss": 2.5, "knn_top1": 0.1, "time/measured_at": 103.0},
        {"epoch": 2.0, "loss": 1.5, "knn_top1": 0.2, "time/measured_at": 110.0},
    ]
    header(run.trial_folder("0000") / "step-0000000002.safetensors", {"history": history})
    (run.trial_folder("0000") / "step-0000000003.safetensors").write_bytes(b"damaged")
    first, second, third = files.of_run(run, study).points
    assert [first.epochs[epoch].seconds for epoch in (1, 2)] == [3.0, 7.0]
    assert first.epochs[1].metrics == {"epoch": 1, "loss": 2.5, "knn_top1": 0.1, "time/measured_at": 103.0}
    assert first.params == dict(study.trials()[0].params)
    assert [second.epochs[epoch].seconds for epoch in (1, 2)] == [5.0, 5.0]
    assert second.epochs[1].metrics == {"epoch": 1, "knn_top1": 0.1} and second.epochs[2].metrics["loss"] == 1.5
    assert (third.epochs, third.error) == ({}, "broken")


def test_the_time_in_which_nobody_ran_is_no_trial_s(tmp_path: Path) -> None:
    """Two epochs, an hour until the resume, and two more; the second session has noted its own begin."""
    spec = specs.parse({"trials": 1, "space": "momentum", "trial": {"train": {"epochs": 4}}})
    run = Run.create(tmp_path / "run", "search", spec.plain(), 0)
    study = Study(run.journal, spec, spaces.load("momentum"))
    proposal = study.ask()
    assert proposal is not None
    lives = [(100.0, 103.0), (100.0, 110.0), (3700.0, 3705.0), (3700.0, 3711.0)]
    history = [
        {"epoch": epoch, "knn_top1": 0.1, "time/first_step_at": since, "time/measured_at": at}
        for epoch, (since, at) in enumerate(lives, start=1)
    ]
    study.begin(proposal.key, 99.0)
    for epoch in history:
        study.observe(proposal.key, epoch)
    study.begin(proposal.key, 3690.0)
    study.tell(proposal.key, history[-1], None, {"last_metric_at": 3711.0})
    run.trial_folder(proposal.key).mkdir(parents=True)
    header(run.trial_folder("0000") / "step-0000000004.safetensors", {"history": history})
    (trial,) = files.of_run(run, study).points
    assert [trial.epochs[epoch].seconds for epoch in (1, 2, 3, 4)] == [3.0, 7.0, 5.0, 6.0]
