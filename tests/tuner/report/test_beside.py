"""A table beside its paper: which scores are compared, in which unit, and what is said of them."""

from pathlib import Path
from typing import Any

import pytest

from tuner.plan import points
from tuner.plan import spec as specs
from tuner.report import beside_table
from tuner.report.beside import Beside, beside
from tuner.report.view import as_json
from tuner.report.viewer import view_of
from tuner.runs import kept_scores
from tuner.runs import run as runs
from tuner.search.study import Study

LAST = 20  # step of the trials
LABELS = {"per_class": None, "share": None, "file": None, "seed": 0}
SCORED = {"split": "test", "network": "student", "step": LAST, "images": 1000, "labels": LABELS}
"""What `tuner evaluate` keeps of a trial's last checkpoint."""
PRINTED = {"EMA": 62.0, "none": 43.5, "projector": 59.6}
SPEC: dict[str, Any] = {
    "points": {
        "EMA": {},
        "none": {"teacher.placement": "none"},
        "projector": {"teacher.placement": "projector"},
    },
    "seeds": 2,
    "trial": {"train": {"epochs": 2}},
    "paper": {"title": "A paper, Table 1", "data": "digits", "reported": {"knn_top1": PRINTED}},
}


def trained(folder: Path, scores: list[float], **changes: Any) -> tuple[runs.Run, Study]:
    """A run of the table whose trials have ended with some scores: first seed first."""
    spec = specs.parse({**SPEC, **changes})
    run = runs.Run.create(folder / "run", "search", spec.plain(), 0)
    study = Study(run.journal, spec, points.load(spec))
    for score in scores:
        asked = study.ask()
        assert asked is not None
        told = {"epoch": 2, "step": LAST, spec.objective.metric: score, "linear_top1": score / 2}
        study.tell(asked.key, told, None, {})
        run.trial_folder(asked.key).mkdir()
    run.write_baseline({"epoch": 0.0, "knn_top1": 0.1, "validation_images": 200.0})
    return run, study


def of(run: runs.Run, study: Study) -> Beside:
    found = beside(run, study)
    assert found is not None
    return found


def reporting(**reported: dict[str, float]) -> dict[str, Any]:
    return {**SPEC["paper"], "reported": reported}


def test_ours_and_the_papers_in_one_unit(tmp_path: Path) -> None:
    run, study = trained(tmp_path, [0.6, 0.4, 0.5, 0.7, 0.5, 0.4])
    found = of(run, study)
    assert (found.metric, found.split, found.compared) == ("knn_top1", "validation", 3)
    assert [row.paper for row in found.rows] == pytest.approx([0.62, 0.435, 0.596])
    assert [row.ours.mean for row in found.rows] == pytest.approx([0.65, 0.45, 0.45])
    assert found.rank is not None and (found.rank.rows, found.rank.seeds) == (3, 2)
    (table,) = beside_table.tables_of(found)
    assert next(iter(table.columns[1].cells)).plain == "0.6500 ± 0.0707"
    assert [cell.plain for cell in table.columns[4].cells] == ["0.6200", "0.4350", "0.5960"]
    caption = str(table.caption)
    line = "Spearman's rank correlation with the paper: +0.866 over 3 rows; no interval: fewer than four rows"
    assert f"{line}; of each of 2 seeds alone +0.50 to +1.00\n" in caption and "ours is of validation images" in caption
    plain = as_json(view_of(run, study))["paper"]
    assert plain["rows"][1]["paper"] == pytest.approx(0.435) and plain["rank"]["rows"] == 3
    assert plain["rank"]["interval"] is None and plain["rank"]["of_seeds"] == pytest.approx((1.0, 0.5))


def test_the_line_of_a_rank_correlation(tmp_path: Path) -> None:
    """With one seed, or none that all rows have, only the spread over seeds is missing."""
    four = {**SPEC["points"], "backbone": {"teacher.placement": "backbone"}}
    paper = reporting(knn_top1={**PRINTED, "backbone": 50.0})
    found = of(*trained(tmp_path / "four", [0.6, 0.5, 0.4, 0.3], points=four, paper=paper, seeds=1))
    assert found.rank is not None and found.rank.interval is not None
    low, high = found.rank.interval
    start = "Spearman's rank correlation with the paper: "
    assert (
        beside_table.rank_line(found) == f"{start}+0.400 over 4 rows; 95 % interval {low:+.2f} to {high:+.2f} (Fisher)"
    )
    alike = of(*trained(tmp_path / "alike", [0.6, 0.4, 0.5], seeds=1))
    assert beside_table.rank_line(alike) == f"{start}+1.000 over 3 rows; no interval: there is none at -1 and 1"


def test_a_number_that_the_paper_does_not_print_is_marked(tmp_path: Path) -> None:
    paper = {**SPEC["paper"], "inferred": {"knn_top1": ["none"]}}
    run, study = trained(tmp_path, [0.6, 0.4, 0.5], seeds=1, paper=paper)
    (table,) = beside_table.tables_of(of(run, study))
    assert [cell.plain for cell in table.columns[4].cells] == ["0.6200", "~0.4350", "0.5960"]
    assert beside_table.INFERRED in str(table.caption)
    plain = as_json(view_of(run, study))["paper"]
    assert [row["inferred"] for row in plain["rows"]] == [False, True, False]


def test_test_scores_come_before_validation(tmp_path: Path) -> None:
    """Those of the network that the table scores, of the last step, with the trial's labels."""
    run, study = trained(tmp_path, [0.6, 0.5, 0.4], seeds=1)
    for number, score in enumerate((0.3, 0.1, 0.2)):
        folder = run.trial_folder(f"{number:04d}")
        for odd in (
            {**SCORED, "split": "validation"},
            {**SCORED, "network": "teacher"},
            {**SCORED, "labels": {**LABELS, "per_class": 4}},
            {**SCORED, "step": 10},
        ):
            kept_scores.note(folder / "step-0000000020.safetensors", {**odd, "knn_top1": 0.9})
        kept_scores.note(folder / "step-0000000020.safetensors", {**SCORED, "knn_top1": score})
        with (folder / kept_scores.NAME).open("a") as file:
            file.write('{"split": "te')  # a line that was cut off
    found = of(run, study)
    assert found.split == "test" and found.rank is not None
    assert [row.ours.mean for row in found.rows] == [0.3, 0.1, 0.2]
    assert found.rank.rho == 1.0
    assert "validation" not in str(beside_table.tables_of(found)[0].caption)


def keep(run: runs.Run, score: float, **changes: Any) -> None:
    """Keeps a test score of each of the table's trials."""
    for number in range(3):
        kept_scores.note(
            run.trial_folder(f"{number:04d}") / "step-0000000020.safetensors",
            {**SCORED, "knn_top1": score + number / 100, **changes},
        )


def test_a_checkpoint_that_is_evaluated_again_has_its_newest_score(tmp_path: Path) -> None:
    run, study = trained(tmp_path, [0.6, 0.5, 0.4], seeds=1)
    keep(run, 0.1)
    keep(run, 0.2)
    assert [row.ours.mean for row in of(run, study).rows] == pytest.approx([0.2, 0.21, 0.22])


def test_a_checkpoint_before_the_last_does_not_stand_for_its_trial(tmp_path: Path) -> None:
    """Nor does one behind it, such as of a trial of the same key in another run."""
    run, study = trained(tmp_path, [0.6, 0.5, 0.4], seeds=1)
    for step in (LAST // 2, LAST + 1, None):
        keep(run, 0.9, step=step)
    found = of(run, study)
    assert found.split == "validation" and [row.ours.mean for row in found.rows] == [0.6, 0.5, 0.4]


def test_an_evaluation_by_another_recipe_says_so(tmp_path: Path) -> None:
    """What does not count for the metric, and what the evaluation of an earlier version lacks, is not named."""
    trial = {**SPEC["trial"], "evaluation": {"linear": {"epochs": 50}}}
    run, study = trained(tmp_path, [0.6, 0.5, 0.4], seeds=1, paper=reporting(linear_top1=PRINTED), trial=trial)
    linear = study.spec.trial.evaluation.protocol("linear").model_dump(mode="json")
    settings = {"linear": linear, "knn": {"k": 3}}
    keep(run, 0.1, linear_top1=0.1, settings=settings, before_feature_norm=False)
    assert of(run, study).otherwise == ()
    other = {key: value for key, value in linear.items() if key != "augment"} | {"epochs": 5}
    keep(run, 0.1, linear_top1=0.1, settings={**settings, "linear": other}, before_feature_norm=True)
    found = of(run, study)
    assert (found.metric, found.split) == ("linear_top1", "test")
    assert found.otherwise == (
        "evaluation.before_feature_norm = True (the table: False)",
        "evaluation.linear.epochs = 5 (the table: 50)",
    )
    caption = str(beside_table.tables_of(found)[0].caption)
    assert f"test images were not scored as the table says: {', '.join(found.otherwise)}" in caption
    assert as_json(view_of(run, study))["paper"]["otherwise"] == found.otherwise


def test_scores_outside_of_a_run_are_not_kept(tmp_path: Path) -> None:
    kept_scores.note(tmp_path / "step-0000000020.safetensors", {"step": 20})
    assert not list(tmp_path.iterdir()) and kept_scores.read(tmp_path) == []


def test_a_line_that_was_cut_short_does_not_spoil_the_next(tmp_path: Path) -> None:
    run = runs.Run.create(tmp_path / "run", "train", {}, 0)
    folder = run.trial_folder(runs.FULL)
    folder.mkdir()
    (folder / kept_scores.NAME).write_text('{"a": 1')
    for step in (1, 2):
        kept_scores.note(folder / "step-0000000020.safetensors", {"step": step})
    assert kept_scores.read(folder) == [{"step": 1}, {"step": 2}]
    assert (folder / kept_scores.NAME).read_text() == '{"a": 1\n{"step": 1}\n{"step": 2}\n'


def test_another_metric_of_the_trials_is_found(tmp_path: Path) -> None:
    run, study = trained(tmp_path, [0.6, 0.4, 0.5], seeds=1, paper=reporting(linear_top1=PRINTED))
    found = of(run, study)
    assert (found.reported, found.metric) == ("linear_top1", "linear_top1")
    assert [row.ours.mean for row in found.rows] == pytest.approx([0.3, 0.2, 0.25])


def test_the_objective_stands_beside_a_metric_that_no_trial_has(tmp_path: Path) -> None:
    run, study = trained(tmp_path, [0.6, 0.4, 0.5], seeds=1, paper=reporting(finetune_top1=PRINTED))
    found = of(run, study)
    assert (found.reported, found.metric) == ("finetune_top1", "knn_top1")
    assert found.rank is not None and found.rank.rho == 1.0
    assert "no trial has finetune_top1 yet; tuner evaluate" in str(beside_table.tables_of(found)[0].caption)


def test_rows_without_a_number_or_a_score(tmp_path: Path) -> None:
    """Two rows are too few for a correlation; a figure or a number under a condition is no score."""
    run, study = trained(tmp_path, [0.6, 0.4], seeds=1)
    found = of(run, study)
    assert found.rank is None and found.compared == 2
    assert beside_table.rank_line(found) == (
        "no rank correlation with the paper's rows: fewer than three rows to compare (2)"
    )
    for reported in ({"averaged_layers": {"EMA": 53.0}}, {"knn_top1, 1 % of the labels": {"EMA": 53.0}}, {}):
        other = trained(
            tmp_path / str(len(reported)) / next(iter(reported), ""), [], seeds=1, paper=reporting(**reported)
        )
        assert beside(*other) is None
        assert view_of(*other).paper is None


def test_equal_scores_have_no_order(tmp_path: Path) -> None:
    found = of(*trained(tmp_path, [0.5, 0.5, 0.5], seeds=1))
    assert beside_table.rank_line(found) == "no rank correlation with the paper's rows: equal numbers to compare (3)"
