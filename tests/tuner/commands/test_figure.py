"""`tuner figure`: a file from the folders of trials, and a line for what cannot be drawn."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tuner.report import traced
from trainables.config import trial as c
from trainables.running import checkpoint, traces
from tuner.commands import main as cli
from tuner.runs.run import Run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a trial that was traced, in the folder that the command is called in."""
    monkeypatch.chdir(tmp_path)
    traced.write(tmp_path / "0007")
    return tmp_path / "0007"


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert cli.main(["figure", *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    return said.removeprefix("error: ").strip()


@pytest.mark.parametrize("kind", ["gradients", "filters", "coordinates"])
def test_a_file_for_each_kind(folder: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    assert cli.main(["figure", "--kind", kind, str(folder)]) == 0
    assert capsys.readouterr().out == f"{kind}.png\n"
    with Image.open(folder.parent / f"{kind}.png") as opened:
        assert opened.format == "PNG" and opened.width > 500


def test_the_trials_of_a_run_stand_side_by_side_with_titles(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of their keys; a title says the momentum that a checkpoint has, unless the user gives one."""
    run = Run.create(folder.parent / "run", "search", {"name": "figures"}, 0)
    shown: list[list[str]] = []
    draw = cli.importlib.import_module("tuner.report.figures").figure
    monkeypatch.setattr(
        "tuner.report.figures.figure",
        lambda kind, trials, network: shown.append([t.title for t in trials]) or draw(kind, trials, network),
    )
    for key, momentum in (("0001", 0.9), ("0000", 0.5)):
        traced.write(run.trial_folder(key))
        config = c.parse({"teacher": {"momentum": momentum}}).plain()
        checkpoint.write(run.trial_folder(key), 1, {}, {"config": config, "format": 2}, keep=1)
    run.trial_folder("0002").mkdir()
    output = folder.parent / "deep" / "two.png"
    words = ["figure", "--kind", "filters", "-o", str(output), str(run.path), str(folder)]
    assert cli.main(words) == 0 and cli.main([*words, "--title", "a", "b", "c"]) == 0
    assert shown == [["0000, β = 0.5", "0001, β = 0.9", "0007"], ["a", "b", "c"]]
    with Image.open(output) as opened:
        assert opened.width > 1500
    capsys.readouterr()
    assert refused(capsys, *words[1:], "--title", "a") == "--title: 1 title for 3 trials"


def test_what_cannot_be_drawn(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, empty = str(folder), folder.parent / "0008"
    empty.mkdir()
    said = refused(capsys, "--kind", "gradient", path)
    assert said == "--kind gradient: no such figure; did you mean 'gradients'?"
    said = refused(capsys, "--kind", "gradients", "--network", "teacher", path)
    assert said == "--network teacher: goes with filters and coordinates; gradients are the student's"
    assert refused(capsys, "--kind", "filters", "-o", "a.pdf", path) == "--output a.pdf: must end in .png"
    assert refused(capsys, "--kind", "filters", "nowhere").startswith("nowhere: no such folder; name a trial's")
    said = refused(capsys, "--kind", "filters", str(empty))
    assert said == f"{empty}: has no traces.safetensors; a trial is traced with monitors.every, such as 20 steps"
    said = refused(capsys, "--kind", "filters", *[path] * 9)
    assert said == f"9 trials: at most 8 stand side by side; name some, such as {path}"
    run = Run.create(folder.parent / "run", "search", {"name": "figures"}, 0)
    assert "none of its trials was traced" in refused(capsys, "--kind", "filters", str(run.path))
    traces.write(folder, {"steps": np.zeros(0, "i8"), "filter/student": np.zeros((0, 16, 2), "f4")})
    assert f"{folder}/traces.safetensors: holds no traces of a trial" in refused(capsys, "--kind", "filters", path)
    (folder / "traces.safetensors").write_bytes(b"cut")
    assert f"{folder}/traces.safetensors: cannot be read" in refused(capsys, "--kind", "filters", path)
    assert not list(folder.parent.glob("*.png"))
