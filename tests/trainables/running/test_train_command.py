"""The command line: python -m trainables.running.train."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from trainables.running import checkpoint, train


@pytest.fixture
def trial(tiny, tmp_path: Path) -> list[str]:
    """Arguments of a run of one epoch."""
    (tmp_path / "trial.yaml").write_text(yaml.safe_dump(tiny({"train.epochs": 1}).plain()))
    return [str(tmp_path / "trial.yaml"), "--folder", str(tmp_path / "run")]


def test_a_bad_key_ends_the_program_with_status_2_and_one_line(trial):
    done = subprocess.run(
        [sys.executable, "-m", "trainables.running.train", *trial, "--set", "train.epoch=3"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.splitlines() == ["error: train.epoch: unknown key; did you mean 'train.epochs'?"]


def test_a_good_run(trial, tmp_path: Path, capsys):
    assert train.main([*trial, "--set", "optim.lr=0.01", "--set", "seed=3"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("epoch 1  step 4  loss ") and "knn_top1 " in line and "images_per_second " in line
    found = checkpoint.newest(tmp_path / "run")
    assert (
        found is not None
        and found.values["config"]["optim"]["lr"]["base"] == 0.01
        and found.values["config"]["seed"] == 3
    )


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("train.epochs=many", "train.epochs = 'many'"),
        ("teacher.smoothing.p=2", "teacher.smoothing.p.base = 2"),
        ("teacher.placement=blok4", "teacher.placement = 'blok4'"),
        ("train.batch_size=15", "train.batch_size = 15"),
        ("train.batch_size=128", "train.batch_size = 128"),
        ("data.name=parquet", "data.root"),
        ("nonsense", "--set nonsense"),
    ],
)
def test_bad_settings_are_one_line(trial, capsys, setting, line):
    assert train.main([*trial, "--set", setting]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith(f"error: {line}")


def test_a_missing_data_folder_and_a_missing_file(trial, tmp_path: Path, capsys):
    assert train.main([*trial, "--set", "data.name=imagefolder", "--set", f"data.root={tmp_path / 'nowhere'}"]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert train.main([str(tmp_path / "other.yaml"), *trial[1:]]) == 2
    assert "error: " in capsys.readouterr().err


def test_a_trial_that_diverges_has_status_1(trial, capsys):
    assert train.main([*trial, "--set", "optim.lr=1.0e+30"]) == 1
    assert "diverged" in capsys.readouterr().err


def test_a_folder_of_another_trial_is_refused(trial, capsys):
    assert train.main(trial) == 0
    capsys.readouterr()
    assert train.main([*trial, "--set", "encoder.width=6"]) == 2
    assert "use another folder" in capsys.readouterr().err
