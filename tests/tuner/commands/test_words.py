"""What commands print, as a user sees it: the words of status, the names in errors, what an export holds."""

import json
import re
from pathlib import Path

import pytest
import yaml

from tests.tuner.report.test_certainty import finished
from trainables.config import trial as c
from tuner.commands import main as cli
from tuner.report import export


def test_status_marks_what_collapsed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, study = finished(tmp_path, [0.6], {"knn_top1": 0.5, "validation_images": 100.0}, trials=2)
    study.tell(study.ask().key, {"epoch": 2, "knn_top1": 0.3, "embedding_std": 0.0}, None, {})  # type: ignore[union-attr]
    assert cli.main(["status", str(run.path)]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"0001 +│ complete, collapsed +│ +0/2 +│ +0.3000 +│", printed)
    assert "2 of 2 trials   100 validation images   untrained 0.5000" in printed
    assert "no star: trial 0000 is the best, but within the noise of 100 images of the untrained encoder" in " ".join(
        printed.split()
    )
    assert cli.main(["status", str(run.path), "--json"]) == 0
    assert [row["collapsed"] for row in json.loads(capsys.readouterr().out)["trials"]] == [False, True]


def test_an_exported_trial_is_complete_and_says_first_what_was_searched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, study = finished(tmp_path, [0.6, 0.7], {"knn_top1": 0.5, "validation_images": 100.0})
    output = tmp_path / "best.yaml"
    assert cli.main(["export", str(run.path), "-o", str(output)]) == 0
    text = output.read_text()
    best = study.config_of(study.trials()[1])
    assert yaml.safe_load(text) == best.plain() and c.parse(yaml.safe_load(text)) == best
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert lines[0] == "teacher:" and lines[1].startswith("  momentum: {kind: constant, base: 0.999, ")
    assert len(lines) < 140 and max(map(len, text.splitlines())) < 140
    assert "# version: teacher-tuner " in text


def test_searched_keys_come_first_at_every_depth() -> None:
    nested = {"a": 1, "b": {"x": 1, "y": {"p": 1, "q": 2}}, "c": [1]}
    found = export.searched_first(nested, ["c", "b.y.q", "nowhere.z"])
    assert (
        found == nested
        and list(found) == ["c", "b", "a"]
        and list(found["b"]) == ["y", "x"]
        and list(found["b"]["y"]) == ["q", "p"]
    )


def test_the_other_commands_spelling_of_a_key_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, content, key, right in (
        ("launch", {}, "data.root", "trial.data.root"),
        ("train", {}, "trial.data.root", "data.root"),
    ):
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content))
        assert cli.main([name, str(path), "--set", f"{key}=/x"]) == 2
        assert capsys.readouterr().err.strip() == f"error: {key}: unknown key; did you mean '{right}'?"


def test_a_list_of_names_has_no_empty_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["keys", "zzz"]) == 2
    assert ": ," not in capsys.readouterr().err
