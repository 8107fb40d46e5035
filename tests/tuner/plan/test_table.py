"""Rows that name another method, another length or other labels, and what the command line sets above them."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from trainables.config import trial as c
from tuner.plan import points, reading
from tuner.plan import spec as specs
from tuner.search.study import Study

TRIAL: dict[str, Any] = {
    "preset": "placement",
    "encoder": {"width": 8},
    "method": {"name": "byol", "predictor_hidden": 64},
    "train": {"epochs": 20, "batch_size": 64, "shard_size": 32},
}


def configs(**content: Any) -> dict[str, c.TrialConfig]:
    return points.configs(specs.parse({"trial": TRIAL, **content}))


def test_a_row_of_another_method_is_that_method_s_own_trial() -> None:
    """It is what `trial` would be with that method in it: recipe, head and views; what `trial` says beside stays."""
    found = configs(
        points={
            "BYOL": {},
            "DINO": {"method.name": "dino", "teacher.placement": "projector"},
            "MoCo": {"method": {"name": "moco"}},
        }
    )
    assert found["BYOL"] == c.parse(TRIAL)
    dino = {**TRIAL, "method": {"name": "dino"}, "teacher": {"placement": "projector"}}
    assert found["DINO"] == c.parse(dino)
    assert found["DINO"].encoder.projector.prototypes == 4096 and found["DINO"].encoder.width == 8
    assert found["MoCo"] == c.parse({**TRIAL, "method": {"name": "moco"}})


def test_a_row_of_the_same_method_keeps_its_options() -> None:
    found = configs(points={"a": {"method": {"name": "byol", "convention": "mean"}}})["a"]
    assert (found.method.predictor_hidden, found.method.convention) == (64, "mean")


def test_a_row_may_follow_another_paper() -> None:
    found = configs(points={"a": {"preset": "eman"}, "b": {"preset": "eman", "method.name": "moco"}})
    assert found["a"] == c.parse({**TRIAL, "preset": "eman"})
    assert found["b"] == c.parse({**TRIAL, "preset": "eman", "method": {"name": "moco"}})


def test_a_row_that_does_not_give_the_objective_is_refused() -> None:
    spec = specs.parse({"trial": TRIAL, "points": {"a": {"preset": "eman"}}, "objective": {"metric": "online_top1"}})
    rule = "needs 'online' in the point's evaluation.protocols, which has only knn"
    with pytest.raises(c.UserError, match=f"^point 'a': objective.metric = online_top1: {rule}$"):
        points.load(spec)


def test_a_row_that_would_be_scored_otherwise_is_refused() -> None:
    with pytest.raises(
        c.UserError,
        match="^point 'a': evaluation.network = teacher: comes with its preset, but .*; "
        "set trial.evaluation.network for all",
    ):
        configs(points={"a": {"preset": "momentum2"}})


def test_momenta_of_parts_go_with_their_row() -> None:
    trial = {**TRIAL, "teacher": {"momenta": {"block4": 0.5}}}
    found = configs(
        trial=trial,
        points={"a": {"method.name": "dino"}, "b": {"method.name": "dino", "teacher.momenta": {"fc2": 0.9}}},
    )
    assert list(found["a"].teacher.momenta) == ["block4"]
    assert list(found["b"].teacher.momenta) == ["fc2"]


def test_a_grid_of_methods_comes_back_from_its_file() -> None:
    spec = specs.parse(
        {"trial": TRIAL, "grid": {"method.name": ["byol", "dino"], "teacher.placement": ["whole", "projector"]}}
    )
    assert list(spec.table) == [
        f"{method}, placement {part}" for method in ("byol", "dino") for part in ("whole", "projector")
    ]
    again = specs.parse(yaml.safe_load(yaml.safe_dump(spec.plain())))
    assert again == spec
    assert points.configs(again) == points.configs(spec)


def test_rows_may_differ_in_length_and_labels(tmp_path: Path) -> None:
    spec = specs.parse(
        {
            "points": {"short": {}, "long": {"train.epochs": 3, "data.labels.per_class": 4}},
            "trial": {"train": {"epochs": 2}},
        }
    )
    study = Study(tmp_path / "journal", spec, points.load(spec))
    for proposal in iter(study.ask, None):
        study.tell(proposal.key, {"epoch": 2, "knn_top1": 0.5}, None, {})
    assert [(study.epochs_of(trial), trial.state.name) for trial in study.trials()] == [(2, "COMPLETE"), (3, "PRUNED")]
    assert points.configs(spec)["long"].data.labels.per_class == 4


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("trial.train.epochs=1", [(1, 64, 4), (1, 32, 4)]),
        ("trial.train={epochs: 5}", [(5, 64, 4), (5, 64, 4)]),
        ("trial.data={name: digits}", [(20, 64, None), (9, 32, None)]),
        ("trial.optim.lr=0.5", [(20, 64, 4), (9, 32, 4)]),
    ],
)
def test_what_is_set_by_hand_counts_in_every_row(tmp_path: Path, setting: str, expected: list) -> None:
    rows = {
        "a": {"data.labels.per_class": 4},
        "b": {"data": {"labels": {"per_class": 4}}, "train": {"epochs": 9, "batch_size": 32}},
    }
    path = tmp_path / "table.yaml"
    path.write_text(yaml.safe_dump({"points": rows, "trial": {"train": {"epochs": 20}}}))
    found = points.configs(reading.read(path, [setting])).values()
    assert [
        (config.train.epochs, config.train.batch_size, config.data.labels.per_class) for config in found
    ] == expected


def test_what_is_set_inside_of_a_row_s_value(tmp_path: Path) -> None:
    """A row that gives a plain number for a schedule gets the key of it that is set; so do those of a grid."""
    path = tmp_path / "table.yaml"
    for content in ({"points": {"a": {"optim.lr": 0.3}}}, {"grid": {"optim.lr": [0.3]}}):
        path.write_text(yaml.safe_dump(content))
        (found,) = points.configs(reading.read(path, ["trial.optim.lr.warmup=3 steps"])).values()
        assert (found.optim.lr.base, found.optim.lr.warmup) == (0.3, "3 steps")
        (found,) = points.configs(reading.read(path, ["trial.optim.lr.base=0.7"])).values()
        assert found.optim.lr.base == 0.7


def test_a_grid_loses_what_is_set_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "table.yaml"
    path.write_text(yaml.safe_dump({"grid": {"teacher.momentum.base": [0.9, 0.99], "teacher.smoothing.p": [0.1, 0.5]}}))
    assert list(reading.read(path, ["trial.teacher.momentum.base=0.5"]).table) == [
        "momentum.base 0.5, smoothing.p 0.1",
        "momentum.base 0.5, smoothing.p 0.5",
    ]
    assert list(reading.read(path, ["trial.teacher.smoothing={kind: tma}"]).table) == [
        "momentum.base 0.9",
        "momentum.base 0.99",
    ]
    assert reading.read(path, ["seeds=2"]).trials == 8


def test_points_that_are_set_by_hand_keep_their_numbers_of_the_paper_and_no_others(tmp_path: Path) -> None:
    path = tmp_path / "table.yaml"
    paper = {"title": "T", "data": "D", "reported": {"knn_top1": {"a": 1, "b": 2}, "online_top1": {"b": 3}}}
    path.write_text(yaml.safe_dump({"points": {"a": {}, "b": {"optim.lr": 0.3}}, "paper": paper}))
    search = reading.read(path, ["points={a: {}, c: {optim.lr: 0.1}}"])
    assert search.paper is not None and search.paper.reported == {"knn_top1": {"a": 1}}
    path.write_text(yaml.safe_dump({"grid": {"optim.lr": [0.1, 0.3]}, "paper": {**paper, "reported": {}}}))
    search = reading.read(path, ["grid={optim.lr: [0.3]}"])
    assert list(search.table) == ["optim.lr 0.3"]


def test_rows_that_are_the_same_trial_are_named() -> None:
    spec = specs.parse({"points": {"a": {}, "b": {"optim.lr": 0.3}, "c": {"optim": {"lr": {"base": 0.3}}}}})
    assert points.alike(spec) == [["b", "c"]]
    assert points.alike(specs.parse({"points": {"a": {}, "b": {"optim.lr": 0.3}}})) == []
    assert points.alike(specs.parse({})) == []
