"""One search, end to end, as a user runs it: launch, status, TensorBoard, export, train, evaluate."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from tests.tuner.boards import HParams, curves, picture, run_of, text
from tests.tuner.conftest import Tuner
from trainables.running import checkpoint

pytestmark = pytest.mark.ray

# four trials: a plain one, one whose loss explodes, and two that go on
SPACE = """
KNOWN_GOOD = [{"lr": 0.05, "share": 0.01}, {"lr": 1e30, "share": 0.01}]

def suggest(trial):
    lr = trial.suggest_float("lr", 0.01, 1e30, log=True)
    share = trial.suggest_float("share", 0.01, 0.3)
    return {"optim.lr": lr if lr > 1e20 else min(lr, 0.1), "teacher.momentum.base": 1 - share}
"""


@pytest.fixture(scope="module")
def printed(tuner: Tuner) -> str:
    (tuner.folder / "my_space.py").write_text(SPACE)
    return tuner.run("launch", tuner.write_search(), "--set", "space=my_space.py:suggest", "--run", "run")


@pytest.fixture(scope="module")
def state(tuner: Tuner, printed: str) -> dict[str, Any]:
    return tuner.state("run")


def test_every_trial_was_asked_and_told(state: dict[str, Any]) -> None:
    assert [row["key"] for row in state["trials"]] == ["0000", "0001", "0002", "0003"]
    states = [row["state"] for row in state["trials"]]
    assert states[:2] == ["complete", "failed"]
    assert set(states[2:]) <= {"complete", "stopped", "failed"}
    assert not state["held"]


def test_curves_are_whole_and_belong_to_their_trial(tuner: Tuner, state: dict[str, Any]) -> None:
    for row in state["trials"]:
        assert list(row["curve"]) == [str(epoch) for epoch in range(1, row["epoch"] + 1)]
        if row["state"] != "failed":
            trained = checkpoint.newest(tuner.folder / "run" / "trials" / row["key"])
            assert trained is not None
            *_, last = trained.values["history"]
            known = {name: value for name, value in last.items() if name != "loss_curve"}
            assert row["metrics"] == {**known, "trial": row["key"], "slot": 0}
            assert row["metrics"]["knn_top1"] == row["score"] == row["curve"][str(row["epoch"])]


def test_a_failed_trial_names_its_error_and_its_log(tuner: Tuner, printed: str, state: dict[str, Any]) -> None:
    row = state["trials"][1]
    assert "TrialFailure: the loss is" in row["error"]
    assert "the loss is" in Path(row["log"]).read_text()
    assert row["log"] in printed
    assert row["log"] in tuner.run("status", "run")


def test_what_a_search_ends_with(printed: str, state: dict[str, Any]) -> None:
    for words in (
        "untrained encoder",
        "first known good",
        "best teacher",
        " status ",
        "tensorboard --logdir",
        " train ",
    ):
        assert words in printed
    assert f"{state['untrained']:.4f}" in printed
    assert state["gaps"] >= 2
    assert state["gap_median_s"] > 0


def test_the_run_directory(tuner: Tuner, printed: str) -> None:
    run = tuner.folder / "run"
    manifest = json.loads((run / "manifest.json").read_text())
    assert set(manifest["versions"]) >= {"python", "torch", "ray", "optuna", "teacher-tuner"}
    assert manifest["sessions"][0]["nodes"][0]["CPU"] >= 1
    assert (run / "best" / "best.yaml").is_file()
    assert list((run / "trials" / "0000").glob("step-*.safetensors"))


def test_tensorboard_has_a_run_for_each_trial(tuner: Tuner, state: dict[str, Any]) -> None:
    folder = tuner.folder / "run" / "tensorboard"
    runs = [run_of(folder, row["key"]) for row in state["trials"]]
    board = HParams(folder)
    assert board.columns == ["optim.lr", "momentum.base"] and list(board.rows) == [run.name for run in runs]
    assert {path.name for path in folder.iterdir()} == {run.name for run in runs} | {"untrained"}
    for row, run in zip(state["trials"], runs, strict=True):
        listed = board.rows[run.name]
        assert (
            listed["optim.lr"] == row["values"]["optim.lr"]
            and listed["momentum.base"] == row["values"]["teacher.momentum.base"]
        )
        assert listed["epochs"] == row["epoch"] and listed["status"] == (
            "failure" if row["state"] == "failed" else "success"
        )
        assert row["key"] in run.name and "lr" in text(run, "configuration")
        if row["state"] == "failed":
            assert "knn_top1" not in listed
            continue
        curve, found = list(row["curve"].values()), curves(run)
        assert listed["knn_top1"] == pytest.approx(row["score"]) and listed["best knn_top1"] == pytest.approx(
            max(curve)
        )
        assert [step for step, _ in found["score/knn_top1"]] == [8 * epoch for epoch in range(1, row["epoch"] + 1)]
        assert [value for _, value in found["score/knn_top1"]] == pytest.approx(curve)
        assert [step for step, _ in found["train/loss"]] == [*range(1, 8 * row["epoch"] + 1)], (
            "every step of short epochs"
        )
        assert {"teacher/alpha", "teacher/p"}.isdisjoint(found) and "teacher/momentum" in found
        assert {tag.partition("/")[0] for tag in found} == {"score", "student", "teacher", "train"}
    untrained = curves(folder / "untrained")
    assert untrained["score/knn_top1"] == [(step, pytest.approx(state["untrained"])) for step in (0, 8, 16, 24)]
    assert picture(folder / "untrained") == (tuner.folder / "run" / "trials" / "untrained" / "views.png").read_bytes()
    assert [picture(run) for run in runs] == [None] * 4, "the augmentation is the same in all trials"


def test_export_train_evaluate(tuner: Tuner, state: dict[str, Any]) -> None:
    tuner.run("export", "run", "--top", "1", "-o", "best.yaml")
    best = yaml.safe_load((tuner.folder / "best.yaml").read_text())
    row = next(row for row in state["trials"] if row["key"] == state["best"])
    assert best["teacher"]["momentum"]["base"] == row["values"]["teacher.momentum.base"]
    assert f"trial {row['key']}" in (tuner.folder / "best.yaml").read_text()

    printed = tuner.run("train", "best.yaml", "--epochs", "2", "--workers", "2", "--batch-size", "64", "--run", "full")
    lr, base = best["optim"]["lr"]["base"], best["teacher"]["momentum"]["base"]
    assert "equivalence rule: batch 32 -> 64 (x2)" in printed
    assert f"learning rate {lr:g} -> {2 * lr:g}" in printed
    assert f"teacher momentum {base:g} -> {1 - 2 * (1 - base):g}" in printed
    assert "epoch 2/2" in printed
    assert [step for step, _ in curves(tuner.folder / "full" / "tensorboard" / "full")["train/loss"]] == [*range(1, 9)]

    scores = json.loads(tuner.run("evaluate", "full/trials/full", "--save", "backbone.safetensors", "--json"))
    assert scores["split"] == "test"
    assert scores["network"] == "student"
    assert 0.2 < scores["knn_top1"] <= 1
    assert 0.2 < scores["linear_top1"] <= scores["linear_top5"] <= 1
    saved = load_file(tuner.folder / "backbone.safetensors")
    assert saved["conv1.weight"].shape == (4, 1, 3, 3)
    assert saved["fc.weight"].shape == (10, 32)

    again = tuner.run("resume", "full")
    assert "step-0000000008.safetensors" in again


def test_a_finished_search_that_is_resumed_changes_nothing(tuner: Tuner, state: dict[str, Any]) -> None:
    journal = (tuner.folder / "run" / "journal.log").read_bytes()
    tuner.run("resume", "run")
    assert (tuner.folder / "run" / "journal.log").read_bytes() == journal


def test_more_workers_than_the_machine_has(tuner: Tuner) -> None:
    process = tuner.start("launch", tuner.write_search(), "--set", "resources.cpus_per_worker=1000", "--run", "large")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert err.startswith("error: resources.workers = 2: a trial needs 2000 CPU, the cluster has")
    assert len(err.splitlines()) == 1
