"""A table of points: each is run with every seed, one seed after the other, and its row says what they came to."""

import statistics
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from trainables.config.errors import UserError
from tuner.plan import points, reading
from tuner.plan import spec as specs
from tuner.report import export, terminal
from tuner.report import points as shown_points
from tuner.report.viewer import view_of
from tuner.runs import run as runs
from tuner.search.study import Study, key_of

TABLE: dict[str, Any] = {
    "points": {
        "EMA": None,
        "beta = 0": {"teacher.momentum": {"kind": "constant", "base": 0}},
        "projector only": {"teacher.placement": "projector"},
    },
    "seeds": 2,
    "trial": {"seed": 5, "train": {"epochs": 1}, "teacher": {"momentum": {"final": 0.999}}},
}
SCORES = {"EMA": (0.5, 0.7), "beta = 0": (0.3, 0.4), "projector only": (0.8, 0.5)}


def study_of(path: Path, count: int = 6, **changes: Any) -> Study:
    """A study of TABLE in which `count` trials have ended."""
    spec = specs.parse({**TABLE, **changes})
    study = Study(path, spec, points.load(spec))
    while len(study.trials()) < count and (proposal := study.ask()):
        score = SCORES[proposal.point][proposal.config.seed - 5] if proposal.point in SCORES else 0.5
        study.tell(proposal.key, {"epoch": 1, "knn_top1": score}, None, {})
    return study


def test_points_are_asked_seed_by_seed(tmp_path: Path) -> None:
    study = study_of(tmp_path / "journal", 0)
    asked = list(iter(study.ask, None))
    assert [(p.point, p.config.seed) for p in asked] == [(label, seed) for seed in (5, 6) for label in TABLE["points"]]
    assert study.spec.trials == 6
    assert study.spec.stopping.kind == "none"
    assert [p.config for p in study.interrupted()] == [p.config for p in asked]
    assert [p.point for p in study.interrupted()] == [p.point for p in asked]


def test_a_point_changes_what_it_names_and_no_more(tmp_path: Path) -> None:
    ema, none, projector = (proposal.config for proposal in iter(study_of(tmp_path / "journal", 0, seeds=1).ask, None))
    assert (none.teacher.momentum.kind, none.teacher.momentum.base, none.teacher.momentum.final) == (
        "constant",
        0,
        0.999,
    )
    assert projector.teacher.placement == ("fc1", "fc2")
    assert ema.model_copy(update={"teacher": none.teacher}) == none
    assert ema.model_copy(update={"teacher": projector.teacher}) == projector


def test_a_spec_comes_back_from_its_file() -> None:
    spec = specs.parse(TABLE)
    assert specs.parse(yaml.safe_load(yaml.safe_dump(spec.plain()))) == spec


def test_a_grid_is_all_combinations() -> None:
    spec = specs.parse({"grid": {"teacher.momentum.base": [0.9, 0.99], "teacher.smoothing.p": [0.1, 0.5]}, "seeds": 3})
    assert list(spec.table) == [f"momentum.base {base}, smoothing.p {p}" for base in (0.9, 0.99) for p in (0.1, 0.5)]
    assert spec.table["momentum.base 0.99, smoothing.p 0.1"] == {
        "teacher.momentum.base": 0.99,
        "teacher.smoothing.p": 0.1,
    }
    assert spec.trials == 12
    assert len(points.load(spec).known_good) == 12


def test_the_summary_of_a_table(tmp_path: Path) -> None:
    study = study_of(tmp_path / "journal")
    rows = {row.point: row for row in shown_points.summary(study.spec, study.trials())}
    assert list(rows) == list(TABLE["points"])
    for label, row in rows.items():
        assert row.scores == {5: SCORES[label][0], 6: SCORES[label][1]}
        assert row.mean == pytest.approx(statistics.fmean(SCORES[label]))
        assert row.sd == pytest.approx(statistics.stdev(SCORES[label]))
    assert (rows["EMA"].difference, rows["EMA"].difference_sd) == (None, None)
    assert rows["beta = 0"].difference == pytest.approx(-0.25)
    assert rows["beta = 0"].difference_sd == pytest.approx(statistics.stdev([-0.2, -0.3]))


def test_a_table_that_was_cut_short_compares_trials_of_one_seed(tmp_path: Path) -> None:
    """Of the second seed only the first point has ended: the differences are those of the first seed."""
    study = study_of(tmp_path / "journal", 4)
    ema, none, projector = shown_points.summary(study.spec, study.trials())
    assert (ema.mean, len(ema.scores)) == (pytest.approx(0.6), 2)
    assert (none.difference, none.difference_sd, none.sd) == (pytest.approx(-0.2), None, None)
    assert projector.difference == pytest.approx(0.3)


def test_a_failed_trial_is_no_score(tmp_path: Path) -> None:
    study = study_of(tmp_path / "journal", 0)
    study.tell(study.ask().key, {"epoch": 1, "knn_top1": 0.9}, "TrialFailure: the loss is nan", {})
    assert shown_points.summary(study.spec, study.trials())[0].mean is None
    assert study.best(3) == []


def test_the_best_point_is_that_of_the_best_mean(tmp_path: Path) -> None:
    """Not that of the luckiest trial; a point that lacks a seed does not compete."""
    study = study_of(tmp_path / "journal", 5)
    assert [key_of(trial) for trial in study.best(3)] == ["0000", "0001"]
    lucky = study_of(
        tmp_path / "other", points={"projector only": {"teacher.placement": "projector"}, "steady": {}}, count=0
    )
    for score in (0.9, 0.6, 0.1, 0.6):
        lucky.tell(lucky.ask().key, {"epoch": 1, "knn_top1": score}, None, {})
    assert [key_of(trial) for trial in lucky.best(1)] == ["0001"]


def test_more_seeds_continue_a_table(tmp_path: Path) -> None:
    before = study_of(tmp_path / "journal")
    after = reading.continued(before.spec.plain(), ["seeds=3"])
    study = Study(tmp_path / "journal", after, points.load(after))
    assert [(p.point, p.config.seed) for p in iter(study.ask, None)] == [(label, 7) for label in TABLE["points"]]


def test_what_is_shown_and_exported(tmp_path: Path) -> None:
    spec = specs.parse(TABLE)
    run = runs.Run.create(tmp_path / "run", "search", spec.plain(), 0)
    study = study_of(run.journal, 5)
    run.write_baseline({"knn_top1": 0.25, "validation_images": 100.0})
    console = Console(width=120, record=True, file=(tmp_path / "out").open("w"))
    console.print(terminal.points_table(view_of(run, study)))
    lines = [" ".join(word for word in line.split() if word not in "│┃") for line in console.export_text().splitlines()]
    for row in (
        "EMA 0.6000 ± 0.1414 0.0000 to 1.0000 2/2",  # t = 12.706 standard errors for two seeds
        "beta = 0 0.3500 ± 0.0707 0.0000 to 0.9853 2/2 -0.2500 ± 0.0707 -0.8853 to +0.3853",
        "projector only 0.8000 0.7112 to 0.8666 1/2 +0.3000 +0.1691 to +0.4170",  # of 80 and 50 of 100 images
        "untrained encoder 0.2500 0.1755 to 0.3430 1",
        "no star: 'EMA' has the best mean, but of too few seeds (2; with fewer than 3 luck looks like a difference)",
    ):
        assert row in lines, (row, lines)
    (path,) = export.export(run, study, 1, tmp_path / "best.yaml")
    header = path.read_text().replace("\n#  ", "")
    assert "point 'EMA', number 1 of 2 complete points" in header
    assert "knn_top1 0.6000 ± 0.1414 over 2 seeds (95 % 0.0000 to 1.0000) on 100 validation images" in header
    assert yaml.safe_load(path.read_text()) == study.config_of(study.trials()[0]).plain()


def test_nothing_to_export(tmp_path: Path) -> None:
    run = runs.Run.create(tmp_path / "run", "search", specs.parse(TABLE).plain(), 0)
    with pytest.raises(UserError, match="no point has all of its seeds complete yet"):
        export.export(run, study_of(run.journal, 3), 1, tmp_path / "best.yaml")
