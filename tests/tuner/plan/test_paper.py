"""The section `paper` of a search: numbers that a paper printed for the points of a table."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from trainables.config import trial as c
from trainables.config.listing import described_keys
from tuner.plan import points, reading
from tuner.plan import spec as specs

PAPER: dict[str, Any] = {
    "title": "Momentum² Teacher, Table 6",
    "data": "ImageNet",
    "gpu_hours": 6200,
    "gpu": "V100",
    "reported": {"linear_best_top1": {"a": 72.0, "1": 61.6}, "seconds_a_step": {"a": 0.6}},
}
POINTS: dict[str, Any] = {"a": {}, "1": {"teacher.momentum": 0.5}}


def with_reported(reported: object) -> dict[str, object]:
    return {"points": POINTS, "paper": {**PAPER, "reported": reported}}


def test_it_comes_back_from_a_run_s_file() -> None:
    spec = specs.parse({"points": POINTS, "paper": PAPER})
    assert specs.parse(yaml.safe_load(yaml.safe_dump(spec.plain()))) == spec
    assert spec.paper is not None and spec.paper.reported["linear_best_top1"] == {"a": 72.0, "1": 61.6}


def test_no_trial_depends_on_it() -> None:
    """A run goes on with other words about its paper, or with none."""
    bare, told = specs.parse({"points": POINTS}), specs.parse({"points": POINTS, "paper": PAPER})
    assert points.configs(bare) == points.configs(told)
    reading.require_same(bare.plain(), told)
    reading.require_same(told.plain(), bare)
    reading.require_same({**told.plain(), "paper": {**PAPER, "title": "another"}}, told)


def test_a_label_that_is_a_number() -> None:
    spec = specs.parse(with_reported({"linear_top1": {1: 61.6}}))
    assert spec.paper is not None and spec.paper.reported == {"linear_top1": {"1": 61.6}}


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (
            with_reported({"linear_top1": {"alpha 1": 3}}),
            "paper.reported.linear_top1: no point is named 'alpha 1'; valid: 1, a",
        ),
        ({"paper": PAPER}, "paper.reported: has the rows of a table; give points or a grid"),
        (
            with_reported({"linear_besttop1": {"a": 1}}),
            "no metric or figure is named 'linear_besttop1'; did you mean 'linear_best_top1'?",
        ),
        (with_reported({"linear_top1": {"a": "72.0 %"}}), "must be a valid number"),
        (with_reported({"linear_top1": {"a": True}}), "must be a valid number"),
        (with_reported({"linear_top1": {}}), "must have at least 1 entry"),
        (
            {"points": POINTS, "paper": {**PAPER, "inferred": {"linear_best_top1": ["b"]}}},
            "paper.inferred.linear_best_top1: paper.reported.linear_best_top1 has no number of 'b'; valid: 1, a",
        ),
        (
            {"points": POINTS, "paper": {**PAPER, "inferred": {"linear_top1": ["a"]}}},
            "paper.inferred.linear_top1: paper.reported.linear_top1 has no number of 'a'",
        ),
        ({"points": POINTS, "paper": {**PAPER, "inferred": {"linear_best_top1": "a"}}}, "must be a list"),
        ({"points": POINTS, "paper": {**PAPER, "gpu": None}}, "paper.gpu_hours: goes with paper.gpu"),
        ({"points": POINTS, "paper": {"data": "ImageNet"}}, "paper.title: this key is required"),
        ({"points": POINTS, "paper": {**PAPER, "titel": "x"}}, "paper.titel: unknown key; did you mean 'title'?"),
    ],
)
def test_what_is_refused(content: dict[str, object], error: str) -> None:
    with pytest.raises(c.UserError) as refused:
        specs.parse(content)
    (line,) = str(refused.value).splitlines()
    assert "paper" in line and error in line


def test_a_metric_may_have_a_condition() -> None:
    reported = {"finetune_top1, 1 % of the labels": {"a": 57.7}, "finetune_top1, 10 % of the labels": {"a": 70.2}}
    spec = specs.parse(with_reported(reported))
    assert spec.paper is not None and spec.paper.reported == reported


def test_numbers_that_are_inferred() -> None:
    spec = specs.parse({"points": POINTS, "paper": {**PAPER, "inferred": {"linear_best_top1": [1]}}})
    assert specs.parse(yaml.safe_load(yaml.safe_dump(spec.plain()))) == spec and spec.paper is not None
    assert spec.paper.infers("linear_best_top1", "1")
    assert not spec.paper.infers("linear_best_top1", "a") and not spec.paper.infers("seconds_a_step", "1")


def test_rows_of_a_grid_that_are_gone(tmp_path: Path) -> None:
    """A grid's labels name its values: where one is set by hand, the paper's numbers for other values go."""
    path = tmp_path / "table.yaml"
    rows = {"momentum.base 0.9": 1.0, "momentum.base 0.99": 2.0}
    paper = {**PAPER, "reported": {"linear_top1": rows}, "inferred": {"linear_top1": ["momentum.base 0.9"]}}
    content = {"grid": {"teacher.momentum.base": [0.9, 0.99]}, "paper": paper}
    path.write_text(yaml.safe_dump(content))
    for setting, expected in {
        "trial.teacher.momentum.base=0.99": {"linear_top1": {"momentum.base 0.99": 2.0}},
        "trial.teacher.momentum.base=0.5": {},
        "trial.optim.lr=0.1": {"linear_top1": rows},
    }.items():
        paper = reading.read(path, [setting]).paper
        assert paper is not None and paper.reported == expected
        assert paper.infers("linear_top1", "momentum.base 0.9") == (len(expected.get("linear_top1", {})) == 2)


def test_its_keys_are_listed() -> None:
    listed = {key.name: key for key in described_keys(specs.SearchSpec)}
    assert listed["paper.title"].default == "" and listed["paper.reported"].description
