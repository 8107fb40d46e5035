"""A table of two points as a user runs it: launched, killed, resumed with one more seed, shown and exported."""

import json
import signal
from typing import Any

import pytest
import yaml

from tests.tuner.boards import HParams
from tests.tuner.conftest import SMALL, Tuner
from tests.tuner.fleet.test_kill import checkpoints, wait_for

pytestmark = [pytest.mark.long, pytest.mark.ray, pytest.mark.timeout(600)]
POINTS: dict[str, Any] = {"EMA": {}, "beta = 0": {"teacher.momentum": {"kind": "constant", "base": 0}}}


def test_a_table_from_launch_to_export(tuner: Tuner) -> None:
    (tuner.folder / "table.yaml").write_text(
        yaml.safe_dump({"points": POINTS, "trial": SMALL["trial"], "resources": {"workers": 1, "concurrent_trials": 1}})
    )
    run = tuner.folder / "run"
    driver = tuner.start("launch", "table.yaml", "--run", "run")
    wait_for(lambda: checkpoints(run, "0001"), "checkpoint of the second point")
    driver.send_signal(signal.SIGKILL)
    driver.wait()

    printed = tuner.run("resume", "run", "--set", "seeds=2")
    state = tuner.state("run")
    assert [(row["point"], row["values"]["seed"]) for row in state["trials"]] == [
        (label, seed) for seed in (0, 1) for label in POINTS
    ]
    assert all(row["state"] == "complete" and row["epoch"] == 3 for row in state["trials"])
    for row, trials in zip(state["points"], (state["trials"][::2], state["trials"][1::2]), strict=True):
        assert list(row["scores"].values()) == [trial["score"] for trial in trials]
        assert row["mean"] == pytest.approx(sum(trial["score"] for trial in trials) / 2)
        for text in (printed, tuner.run("status", "run")):
            assert f"{row['mean']:.4f} ± {row['sd']:.4f}" in text

    board = HParams(run / "tensorboard")
    assert board.columns == ["point", "seed", "momentum.base", "momentum"], "as the file has them"
    listed = [(name, row["point"], row["seed"], row["epochs"]) for name, row in board.rows.items()]
    assert listed == [
        (f"{row['key']} {row['point']} seed {row['values']['seed']}", row["point"], row["values"]["seed"], 3)
        for row in state["trials"]
    ]
    tuner.run("export", "run", "-o", "best.yaml")
    best = max(state["points"], key=lambda row: row["mean"])["point"]
    text = (tuner.folder / "best.yaml").read_text()
    assert f"point '{best}', number 1 of 2" in text
    assert yaml.safe_load(text)["seed"] == 0
    assert json.loads((run / "untrained.json").read_text())["knn_top1"] == state["untrained"]
