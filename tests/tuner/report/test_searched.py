"""What a search varies: columns in the order of the space, and short names of trials."""

from pathlib import Path
from typing import Any

import pytest

from trainables.config import trial as c
from tuner.plan import points
from tuner.plan import space as spaces
from tuner.plan import spec as specs
from tuner.report.searched import LONGEST, Searched
from tuner.search.study import Study

TEACHER = spaces.load("teacher")
ORDER = [
    *("smoothing", "smoothing.p", "smoothing.granularity", "momentum", "momentum.base"),
    *("norm", "norm.alpha", "norm.alpha.base", "placement"),
]


def search(**changes: Any) -> specs.SearchSpec:
    return specs.parse({"trial": {"data": {"name": "digits"}}, **changes})


def titles(searched: Searched) -> list[str]:
    return [column.title for column in searched.columns]


def named(
    spec: specs.SearchSpec, searched: Searched, key: str, values: dict[str, Any], point: str | None = None
) -> str:
    config = c.changed(spec.trial.plain(), values)
    return searched.run_name(key, searched.facts(point, values, config), config)


def test_columns_are_what_is_searched_in_the_order_in_which_the_space_asks() -> None:
    """Also keys that only some trials have; constants of a proposal, such as where a schedule ends, are no columns."""
    found = Searched(search(), TEACHER, []).columns
    assert [column.title for column in found] == ORDER
    assert [column.kind for column in found] == [
        "text",
        "number",
        "text",
        "text",
        "number",
        "text",
        "text",
        "number",
        "text",
    ]
    assert sorted(found, key=lambda column: column.name) == found, "TensorBoard sorts by name"


def test_columns_stay_the_same_while_a_search_goes_on(tmp_path: Path) -> None:
    """Fails when a key takes the place of another one, so that the values of earlier trials stand in wrong columns."""
    study = Study(tmp_path / "journal", search(trials=9), TEACHER)
    first = Searched(study.spec, TEACHER, [])
    for _ in range(9):
        study.ask()
    assert Searched(study.spec, TEACHER, study.trials()).columns == first.columns


def test_what_no_rehearsal_showed_comes_last(tmp_path: Path) -> None:
    """A space with a branch that is hardly ever taken, and was by the second trial."""

    def suggest(trial: Any) -> dict[str, Any]:
        rate = trial.suggest_float("rate", 0.0, 1.0)
        return (
            {"optim.lr": rate} | ({"optim.nesterov": True} if rate == 0.123456 else {}) | {"optim.momentum": 0.5 * rate}
        )

    study = Study(
        tmp_path / "journal", search(trials=2), spaces.Space("rare", suggest, ({"rate": 0.5}, {"rate": 0.123456}))
    )
    for _ in range(2):
        study.ask()
    unaware = spaces.Space("rare", suggest, ())
    assert titles(Searched(study.spec, unaware, study.trials())) == ["optim.lr", "optim.momentum", "optim.nesterov"]


def test_values_of_a_trial_leave_out_what_it_lacks() -> None:
    spec = search()
    searched = Searched(spec, TEACHER, [])
    values = {
        "teacher.smoothing.kind": "tma",
        "teacher.norm.kind": "eman",
        "teacher.placement": ["block4", "projector"],
    }
    config = c.changed(spec.trial.plain(), values)
    assert searched.facts(None, values, config) == {
        "teacher.smoothing.kind": "tma",
        "teacher.norm.kind": "eman",
        "teacher.placement": "block4+projector",
    }


def test_columns_of_a_table_are_point_seed_and_what_points_differ_in() -> None:
    table = {
        "EMA": {},
        "beta = 0": {"teacher.momentum": 0},
        "frozen, slowly": {"teacher.momentum": 1, "optim.lr.base": 0.01},
    }
    spec = search(points=table, seeds=2)
    searched = Searched(spec, points.load(spec), [])
    assert titles(searched) == ["point", "seed", "momentum", "momentum.base", "optim.lr.base"]
    config = points.configs(spec)["beta = 0"]
    assert searched.facts("beta = 0", {}, config) == {
        **{"point": "beta = 0", "seed": 0, "teacher.momentum.kind": "constant", "teacher.momentum.base": 0.0},
        "optim.lr.base": spec.trial.optim.lr.base,
    }
    assert searched.run_name("0004", searched.facts("beta = 0", {}, config), config) == "0004 beta = 0 seed 0"


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({}, "0003 default"),
        (
            {"teacher.smoothing.kind": "sts", "teacher.smoothing.p": 0.7, "teacher.norm.kind": "momentum"},
            "0003 sts p 0.7 momentum",
        ),
        ({"teacher.norm.kind": "momentum", "teacher.norm.alpha.base": 1.0}, "0003 momentum alpha 1"),
        ({"teacher.momentum.kind": "constant", "teacher.momentum.base": 0.9995}, "0003 momentum constant 0.9995"),
        (
            {"teacher.momentum.base": 0.98765, "teacher.placement": ["block4", "projector"]},
            "0003 momentum 0.9877 block4+projector",
        ),
    ],
)
def test_a_run_is_called_by_its_key_and_what_sets_it_apart(values: dict[str, Any], name: str) -> None:
    spec = search()
    own = {
        "teacher.smoothing.kind": "tma",
        "teacher.momentum.kind": "cosine",
        "teacher.momentum.base": 0.99,
        "teacher.norm.kind": "batch",
    }
    order = [
        f"teacher.{key}" for key in ("smoothing.kind", "smoothing.p", "momentum.kind", "momentum.base", "norm.kind")
    ]
    proposed = {key: value for key, value in (own | values).items() if key in order} | {
        k: v for k, v in values.items() if k not in order
    }
    assert named(spec, Searched(spec, TEACHER, []), "0003", proposed) == name


@pytest.mark.parametrize("label", ['a/b\\c:d*?"<>|', "..", "β = ½", "x" * 200, "word " * 40, "trailing . . ."])
def test_names_are_safe_for_file_systems(label: str, tmp_path: Path) -> None:
    spec = search(points={label: {}, "other": {"teacher.momentum": 0}})
    searched = Searched(spec, points.load(spec), [])
    name = named(spec, searched, "0012", {"seed": 0}, label)
    assert name.startswith("0012") and len(name) <= LONGEST and not set(name) & set('/\\:*?"<>|\n\t\0')
    assert name == name.strip(" .")
    (tmp_path / name).mkdir()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_every_proposal_of_a_space_has_a_name(tmp_path: Path) -> None:
    spec = search(trials=30, sampler={"kind": "random"})
    study, searched = Study(tmp_path / "journal", spec, TEACHER), Searched(spec, TEACHER, [])
    names = []
    while proposal := study.ask():
        names.append(
            searched.run_name(proposal.key, searched.facts(None, proposal.values, proposal.config), proposal.config)
        )
    assert names[:5] == ["0000 default", "0001 momentum alpha 1", "0002 sts p 0.7", "0003 eman", "0004 projector"]
    assert all(5 < len(name) <= LONGEST for name in names) and not any(
        name.endswith((" p", " momentum alpha")) for name in names[5:]
    )
