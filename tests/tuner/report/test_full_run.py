"""`tuner status` of a full run: how far it is, on how many workers, and what it waits for. No Ray."""

import json
import time
from pathlib import Path

import pytest
import torch

from trainables.running import checkpoint
from tuner.commands.main import main
from tuner.plan import spec as specs
from tuner.runs.fleet_state import FleetSlot, FleetState
from tuner.runs.run import FULL, Run

SPEC = specs.parse({"name": "train", "trial": {"train": {"epochs": 5}}})
METRIC = SPEC.objective.metric


def full_run(tmp_path: Path, scores: list[float]) -> Run:
    """A full run, held by this process, whose newest checkpoint has some scores."""
    run = Run.create(tmp_path / "full", "train", SPEC.plain(), 0)
    if scores:
        history = [{"epoch": float(epoch), METRIC: score} for epoch, score in enumerate(scores, start=1)]
        checkpoint.write(run.trial_folder(FULL), 10, {"x": torch.ones(2)}, {"history": history}, 2)
    return run


def test_status_of_a_full_run_that_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = full_run(tmp_path, [0.2, 0.6, 0.5])
    slots = (FleetSlot(0, "a", FULL), FleetSlot(1, "b", FULL))
    FleetState(time.time(), slots, {FULL: 4}, "/data: No space left on device").write(run.fleet_file)
    assert main(["status", str(run.path)]) == 0
    said = capsys.readouterr().out
    assert "epoch 3 of 5; " in said
    assert f"{METRIC} 0.5000; 0.6000 after epoch 2, the best on validation" in said
    assert "running on 4 workers; 2 slots up on 2 nodes" in said
    assert "waiting: /data: No space left on device\n" in said
    assert "nobody runs it" not in said
    assert "tensorboard" in said
    assert main(["status", str(run.path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["version"], told["kind"], told["epoch"], told["epochs"], told["score"]) == (1, "train", 3, 5, 0.5)
    assert (told["workers"], told["waits"], len(told["slots"])) == (4, "/data: No space left on device", 2)
    assert (told["held"], told["best_epoch"], told["best_epoch_score"]) == (True, 2, 0.6)


def test_status_of_a_full_run_that_nobody_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = full_run(tmp_path, [])
    assert run._lock._file is not None
    run._lock._file.close()
    FleetState(time.time(), (FleetSlot(0, "a", FULL),), {FULL: 1}, "a disc").write(run.fleet_file)
    assert main(["status", str(run.path)]) == 0
    said = capsys.readouterr().out
    assert "epoch 0 of 5\nnobody runs it now; continue with: " in said
    assert "waiting" not in said
    assert main(["status", str(run.path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["held"], told["waits"], told["score"], told["slots"]) == (False, None, None, [])
