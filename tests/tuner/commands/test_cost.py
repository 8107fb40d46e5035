"""`tuner cost`, as a user sees it: files, runs, rows, the paper's figures, and what is wrong with a name."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.tuner.report.test_certainty import finished
from trainables.running.messages import Cost
from tuner.commands import cost
from tuner.commands import main as cli
from tuner.report import costs

TRIAL: dict[str, Any] = {
    "encoder": {"name": "resnet10", "width": 4, "projector": {"hidden": 32, "out": 16}},
    "method": {"predictor_hidden": 32},
    "train": {"batch_size": 32, "shard_size": 16},
}
TABLE: dict[str, Any] = {
    "name": "table",
    "points": {"TMA": {}, "projector": {"teacher.placement": "projector"}},
    "trial": TRIAL,
    "paper": {
        "title": "A paper, Table 1",
        "data": "digits",
        "reported": {
            "averaged_layers": {"TMA": 12, "projector": 2},
            "parameters_millions": {"TMA": 0.0},
            "time_over_tma": {"TMA": 1.0, "projector": 0.6},
            "knn_top1": {"TMA": 90.0},
        },
    },
}


@pytest.fixture
def table(tmp_path: Path) -> str:
    path = tmp_path / "table.yaml"
    path.write_text(yaml.safe_dump(TABLE))
    return str(path)


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    assert cli.main(["cost", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_rows_of_a_table_beside_the_papers_figures(table: str, capsys: pytest.CaptureFixture[str]) -> None:
    whole, projector = printed(capsys, table)
    assert [whole["trial"], projector["trial"]] == ["TMA", "projector"]
    assert whole["student_parameters"] == projector["student_parameters"]
    assert projector["teacher_parameters"] == 32 * 32 + 32 + 2 * 32 + 32 * 16 + 16
    assert whole["paper"] == {"averaged_layers": 12, "parameters_millions": 0.0, "time_over_tma": 1.0}, (
        "figures, and no scores"
    )
    assert whole["ours"]["averaged_layers"] == 12 and projector["ours"]["forwards_a_view"] == 1
    assert whole["memory"]["total"] == sum(value for key, value in whole["memory"].items() if key != "total")
    assert cli.main(["cost", table]) == 0
    text = capsys.readouterr().out
    assert "0.0 (0.0)" in text and "12 (12)" in text and "2 (2)" in text and "- (0.6)" in text, "not measured"


def test_one_row_and_settings(table: str, capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = printed(capsys, table, "--row", "projector", "--set", "trial.train.batch_size=64")
    assert (row["trial"], row["batch"]) == ("projector", 64)
    assert cli.main(["cost", table, "--row", "projector"]) == 0
    assert "block4" in capsys.readouterr().out, "a single trial is shown part by part"
    assert cli.main(["cost", table, "--row", "projectr"]) == 2
    assert capsys.readouterr().err == "error: --row projectr: no such row; did you mean 'projector'?\n"


def test_a_trial_by_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(TRIAL))
    (row,) = printed(capsys, str(path), "--set", "teacher.placement=none")
    assert (row["trial"], row["teacher_parameters"], row["averaged_modules"]) == ("mine", 0, 0)


def test_a_run_and_a_trial_in_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, study = finished(tmp_path, [0.6, 0.7], {"knn_top1": 0.5})
    keys = [row["trial"] for row in printed(capsys, str(run.path))]
    assert keys == ["0000", "0001"]
    run.trial_folder("0001").mkdir()
    (row,) = printed(capsys, str(run.trial_folder("0001")))
    assert row["trial"] == "0001" and row["batch"] == study.config_of(study.trials()[1]).train.batch_size
    assert cli.main(["cost", str(run.path), "--set", "seed=1"]) == 2
    assert "--set seed=1: goes with a file" in capsys.readouterr().err


def test_a_folder_that_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The message names the folder that was given, whatever lies around it."""
    run, _ = finished(tmp_path, [0.6], {"knn_top1": 0.5})
    (tmp_path / "bad" / "inner" / "deep").mkdir(parents=True)
    for folder in (tmp_path / "bad", tmp_path / "bad" / "inner" / "deep", run.path / "trials"):
        folder.mkdir(exist_ok=True)
        assert cli.main(["cost", str(folder)]) == 2
        rule = "neither a run directory (it has no manifest.json) nor a trial's folder in one"
        assert capsys.readouterr().err == f"error: {folder}: {rule}\n"


def test_what_a_dry_step_measured(
    table: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[dict[str, Any]] = []

    def answer(module: str, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        asked.append(request)
        return vars(Cost(0.5 / len(asked), 10**9, None, 1, 1, 2))

    monkeypatch.setattr(cost, "ask", answer)
    whole, projector = printed(capsys, table, "--measure")
    assert [request["stored"]["shape"] for request in asked] == [(8, 8, 1)] * 2
    assert whole["measured"]["seconds"] == 0.5 and projector["ours"]["time_over_tma"] == 0.5
    assert whole["ours"]["minutes_an_epoch"] == pytest.approx(0.5 * (1295 // 32) / 60)
    assert cli.main(["cost", table, "--measure"]) == 0
    assert "1 GB" in (text := capsys.readouterr().out) and "0.6)" in text


SMALLER = "; a smaller train.batch_size, with a smaller train.shard_size, may do"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (cost.UserError("was ended by signal 7"), "was ended by signal 7"),
        (cost.Killed("was killed"), f"was killed{SMALLER}"),
        (cost.Late("no answer within 600 s"), f"no answer within 600 s{SMALLER}"),
    ],
    ids=str,
)
def test_a_dry_step_that_fails_is_said(
    table: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, said: str
) -> None:
    def fail(module: str, request: object, seconds: float) -> None:
        raise error

    monkeypatch.setattr(cost, "ask", fail)
    rows = printed(capsys, table, "--measure")
    assert [(row["measured"], row["unmeasured"]) for row in rows] == [(None, said)] * 2


def test_a_figure_of_papers_has_one_value_in_json(table: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Counts of our own have names of their own: the paper's layers leave out shortcuts, ours do not."""
    whole, _ = printed(capsys, table)
    assert not set(costs.FIGURES) & whole.keys()
    assert (whole["averaged_modules"], whole["nominal_layers"]) == (9 + 3 + 2, 10 + 2)
    assert whole["ours"]["averaged_layers"] == whole["nominal_layers"]


def test_titles_name_every_figure() -> None:
    assert costs.TITLES.keys() == set(costs.FIGURES)


def test_a_number_of_classes_has_bounds(table: str, capsys: pytest.CaptureFixture[str]) -> None:
    for classes in ("100000000000", "0", "ten"):
        with pytest.raises(SystemExit, match="2"):
            cli.main(["cost", table, "--classes", classes])
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.endswith(f"argument --classes: '{classes}': must be a whole number from 1 to 1,000,000")
    few, many = (
        printed(capsys, table, "--set", "trial.online_probe.lr=0.1", "--classes", n)[0] for n in ("2", "1000000")
    )
    assert many["student_parameters"] - few["student_parameters"] == 999_998 * (32 + 1)


def test_labels_with_commas_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "table.yaml"
    path.write_text(yaml.safe_dump({"points": {"BYOL, none": {}, "DINO": {"method.name": "dino"}}, "trial": TRIAL}))
    assert cli.main(["cost", str(path), "--row", "xyz"]) == 2
    assert capsys.readouterr().err == "error: --row xyz: no such row; valid: 'BYOL, none', 'DINO'\n"
