"""`tuner simulate`: what it prints, and what it refuses."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from tests.tuner.search.test_core import search
from trainables.config import trial as c
from tuner.commands import main as cli
from tuner.runs.run import Run
from tuner.search.study import Study
from tuner.simulator import files

FIXTURES = Path(__file__).parents[2] / "fixtures"


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
        (["--replay", "--slots", "4"], "--replay, --slots 4: "),
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


@pytest.mark.parametrize("source", ["run", "file"])
def test_curves_of_another_configuration_are_refused(
    written: tuple[str, str], recorded: tuple[Run, Study], source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The proposed values are the same, but a curve depends on the whole trial."""
    path, curves = written
    if source == "file":
        curves = str(Path(path).with_name("curves.parquet"))
        files.write(Path(curves), files.of_run(*recorded).points, recorded[0].spec["trial"])
    settings = ["--set", "trial.encoder.width=64", "--set", "trial.optim.lr.base=0.7"]
    assert cli.main(["simulate", path, "--curves", curves, *settings]) == 2
    printed = capsys.readouterr()
    width, rate = sorted(printed.err.splitlines())
    assert printed.out == ""
    assert width.startswith("error: trial.encoder.width = 64: is None in ") and curves in width
    assert rate.startswith(f"error: trial.optim.lr.base = 0.7: is {search().trial.optim.lr.base} in ")
    checkpoints = ["trial.train.checkpoint_steps=7", "trial.train.checkpoint_minutes=7"]
    harmless = ["trial.data.root=/elsewhere", *checkpoints, "stopping.reduction=4", "name=other"]
    assert cli.main(["simulate", path, "--curves", curves, *(word for s in harmless for word in ("--set", s))]) == 0


def test_curves_that_do_not_say_of_which_trials_they_are(
    written: tuple[str, str], recorded: tuple[Run, Study], tmp_path: Path
) -> None:
    files.write(tmp_path / "curves.parquet", files.of_run(*recorded).points)
    arguments = ["simulate", written[0], "--curves", str(tmp_path / "curves.parquet")]
    assert cli.main([*arguments, "--set", "trial.encoder.width=64"]) == 0


@pytest.mark.parametrize("name", ["lars", "sgd"])
def test_the_spec_of_a_run_that_an_earlier_version_made(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The spec lacks keys that are newer than the run: they have the values by which that version trained."""
    run = shutil.copytree(FIXTURES / "format_1" / name, tmp_path / name)
    assert cli.main(["simulate", str(run / "spec.yaml"), "--curves", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["trials"][0]["state"] == "complete"
    assert cli.main(["simulate", str(run / "spec.yaml"), "--curves", str(run), "--replay"]) == 2
    assert "was written before the order of its events was noted" in capsys.readouterr().err
    copy = shutil.copy(run / "spec.yaml", tmp_path / "search.yaml")
    assert cli.main(["simulate", str(copy), "--curves", str(run)]) == 2
    assert "trial.optim.lr_in_buffer = True: is False in " in capsys.readouterr().err


def test_a_trial_in_place_of_a_search(
    written: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "best.yaml"
    path.write_text(yaml.safe_dump(c.TrialConfig().plain()))
    assert cli.main(["simulate", str(path), "--curves", written[1]]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "best.yaml: is the configuration of one trial" in line and "tuner train " in line
