"""fit: what it tells, and that a trial killed anywhere ends as one that was left alone, to the last bit."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from tests.timeless import timeless_history
from trainables.config import trial as c
from trainables.config.errors import TrialFailure, UserError
from trainables.config.evaluation import with_recipe
from trainables.learning.learner import Learner
from trainables.running import checkpoint, scoring
from trainables.running import fit as train


class Killed(Exception):
    """Stands for kill -9 in the middle of an epoch."""


def kill_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    take = Learner.step

    def stepping(self: Learner, batches):
        if self.step_index == step:
            raise Killed
        return take(self, batches)

    monkeypatch.setattr(Learner, "step", stepping)


def assert_same_end(one: Path, other: Path) -> None:
    a, b = checkpoint.newest(one), checkpoint.newest(other)
    assert a is not None and b is not None and a.path.name == b.path.name
    assert a.tensors.keys() == b.tensors.keys()
    assert [name for name in a.tensors if not torch.equal(a.tensors[name], b.tensors[name])] == []
    assert timeless_history(a.values["history"]) == timeless_history(b.values["history"])
    assert {**a.values, "history": 0} == {**b.values, "history": 0}


def go_on(metrics: train.Metrics) -> train.Going:
    return "on"


COMBINATIONS = {
    "batch-tma-whole": {
        "evaluation.protocols": ["linear", "label_free", "finetune"],
        "evaluation.linear": {"epochs": 1, "augment": True},
        "evaluation.label_free": {"images": 8, "views": 2},
        "evaluation.finetune.epochs": 1,
    },
    "momentum-sts-backbone": {
        "teacher.norm.kind": "momentum",
        "teacher.smoothing.kind": "sts",
        "teacher.placement": "backbone",
    },
    "eman-sts-projector": {
        "teacher.norm.kind": "eman",
        "teacher.smoothing.kind": "sts",
        "teacher.placement": "projector",
        "optim.name": "lars",
    },
    "momentum-tma-whole": {
        "teacher.norm.kind": "momentum",
        "train.exact": False,
        "evaluation.network": "teacher",
        "train.precision": "bf16",
    },
    "eman-se-block3": {
        "teacher.norm.kind": "eman",
        "teacher.smoothing.kind": "se",
        "teacher.placement": "block3",
        "train.channels_last": False,
    },
    "shared-momentum-sts-neuron-watched": {
        "teacher.norm": {"kind": "momentum", "history": "shared"},
        "teacher.smoothing": {"kind": "sts", "granularity": "neuron"},
        "teacher.update": "after",
        "encoder.projector.hidden": 2,
        "monitors": {"names": ["drift", "gradients", "filters"], "every": "2 steps"},
    },
}


@pytest.mark.parametrize("values", COMBINATIONS.values(), ids=COMBINATIONS)
def test_invariant_22_a_killed_trial_ends_as_one_that_was_left_alone(tiny, tmp_path: Path, values):
    """Epochs of 3 steps, checkpoints after 2, 3, 4, 6; killed before the first, in epoch 2, and with the last lost."""
    # Fails when the sum of losses, or what drift is measured against, is forgotten.
    config = tiny({"train.checkpoint_steps": 2, "data.train_images": 48, "optim.lr.warmup": 0.5, **values})
    whole = train.fit(config, tmp_path / "whole", go_on)
    for step in (1, 5):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            kill_at(step, patch)
            train.fit(config, tmp_path / "killed", go_on)
    told: list[train.Metrics] = []
    resumed = train.fit(config, tmp_path / "killed", lambda metrics: told.append(metrics) or "on")
    assert timeless_history(resumed) == timeless_history(whole) == timeless_history(told) and len(whole) == 2
    assert_same_end(tmp_path / "whole", tmp_path / "killed")
    (tmp_path / "killed" / "step-0000000006.safetensors").write_bytes(b"lost")
    train.fit(config, tmp_path / "killed", go_on)
    assert_same_end(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.long
def test_a_trial_survives_kill_9(tiny, tmp_path: Path):
    """The program itself, killed by the system while it trains."""
    config = tiny({"train.epochs": 12, "train.checkpoint_steps": 1})
    (tmp_path / "trial.yaml").write_text(yaml.safe_dump(config.plain()))
    command = [
        sys.executable,
        "-m",
        "trainables.running.train",
        str(tmp_path / "trial.yaml"),
        "--folder",
        str(tmp_path / "killed"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as trial:
        assert trial.stdout is not None
        assert "epoch 1 " in trial.stdout.readline()
        trial.send_signal(signal.SIGKILL)
        trial.wait()
    left = checkpoint.newest(tmp_path / "killed")
    assert left is not None and 4 <= left.values["learner"]["step"] < 48
    train.fit(config, tmp_path / "killed", go_on)
    train.fit(config, tmp_path / "whole", go_on)
    assert_same_end(tmp_path / "whole", tmp_path / "killed")


def test_history_is_told_again_on_a_resume(tiny, tmp_path: Path):
    told: list[train.Metrics] = []
    config = tiny({"train.epochs": 3})
    history = train.fit(config, tmp_path, lambda metrics: told.append(metrics) or "on")
    assert (
        told == history
        and [metrics["epoch"] for metrics in told] == [1, 2, 3]
        and [metrics["step"] for metrics in told] == [4, 8, 12]
    )
    assert train.fit(config, tmp_path, lambda metrics: told.append(metrics) or "on") == history
    assert told == history + history  # times included: nothing was trained again


def test_metrics_of_an_epoch(tiny, tmp_path: Path):
    (metrics,) = train.fit(tiny({"train.epochs": 1}), tmp_path, go_on)
    assert {name for name in metrics if not name.startswith("monitor/")} == {
        *(
            "epoch",
            "step",
            "loss",
            "loss_curve",
            "embedding_std",
            "teacher_distance",
            "momentum",
            "alpha",
            "p",
            "lr",
            "weight_decay",
        ),
        *("knn_top1", "knn1_top1", "validation_images"),
        *("time/images_per_second", "time/first_step_at", "time/measured_at", "time/workers"),
    }
    assert metrics["time/images_per_second"] > 0 and 0 < metrics["time/first_step_at"] < metrics["time/measured_at"]
    assert 0 <= metrics["knn_top1"] <= 1 and metrics["validation_images"] == 32


def test_the_log_says_between_which_steps_a_worker_trained(
    tiny, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    """Also where it broke off; what `benchmarks.elastic` measures rests on these lines."""
    config = tiny({"train.epochs": 2})
    with caplog.at_level("INFO"):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            kill_at(6, patch)
            train.fit(config, tmp_path, go_on)
        train.fit(config, tmp_path, go_on)
    place = f"worker 0 of 1, process {os.getpid()}"
    assert [line for line in caplog.messages if line.startswith("steps ")] == [
        f"steps from 0 on: {place}",
        "steps until 6",
        f"steps from 4 on: {place}",
        "steps until 8",
    ]


def test_a_no_stops_the_trial_now_and_after_a_resume(tiny, tmp_path: Path):
    config, told = tiny({"train.epochs": 4}), []

    def until_the_second(metrics: train.Metrics) -> train.Going:
        told.append(metrics["epoch"])
        return "on" if metrics["epoch"] < 2 else "stop"

    assert len(train.fit(config, tmp_path, until_the_second)) == 2
    assert len(train.fit(config, tmp_path, until_the_second)) == 2
    assert told == [1, 2, 1, 2]
    left = checkpoint.newest(tmp_path)
    assert left is not None and left.values["learner"]["step"] == 8


def test_epochs_without_an_evaluation(tiny, tmp_path: Path):
    config = tiny({"train.epochs": 3, "evaluation.every_epochs": 2})
    plain = train.fit(tiny({"train.epochs": 3}), tmp_path / "every", go_on)
    some = train.fit(config, tmp_path / "some", go_on)
    assert [metrics["epoch"] for metrics in some] == [2, 3]
    curves = [metrics.pop("loss_curve") for metrics in plain]
    assert [metrics.pop("loss_curve") for metrics in some] == [curves[0] + curves[1], curves[2]], (
        "of every epoch, evaluated or not"
    )
    assert timeless_history(some) == [timeless_history(plain)[epoch - 1] for epoch in (2, 3)]


def test_without_epochs_the_untrained_encoder_is_scored(tiny, tmp_path: Path):
    (metrics,) = train.fit(tiny({"train.epochs": 0}), tmp_path / "untrained", go_on)
    assert (
        metrics.keys() == {"epoch", "step", "knn_top1", "knn1_top1", "validation_images"}
        and metrics["epoch"] == metrics["step"] == 0
    )
    config = tiny({"train.epochs": 1, "optim.lr": 1e-12})
    (after,) = train.fit(config, tmp_path / "barely", go_on)
    assert metrics["knn_top1"] != 0.1 and abs(after["knn_top1"] - metrics["knn_top1"]) <= 0.25


def test_fewer_images_than_a_batch(tiny, tmp_path: Path):
    with pytest.raises(UserError, match=r"train.batch_size = 128: there are only 64 training images"):
        train.fit(tiny({"train.batch_size": 128}), tmp_path, go_on)


def test_a_trial_that_diverges_fails_by_name(tiny, tmp_path: Path):
    with pytest.raises(TrialFailure, match=r"the loss is (nan|inf) in epoch \d: the trial diverged"):
        train.fit(tiny({"optim.lr": 1e30}), tmp_path, go_on)


def test_a_checkpoint_says_what_it_is_of_and_is_evaluated(tiny, tmp_path: Path):
    config = tiny({"evaluation.linear.epochs": 2, "teacher.norm.kind": "momentum"})
    history = train.fit(config, tmp_path, go_on)
    found = checkpoint.newest(tmp_path)
    assert found is not None and c.parse(found.values["config"]) == config
    assert found.values["versions"]["torch"] == torch.__version__
    assert len(list(tmp_path.glob(checkpoint.PATTERN))) == config.train.keep_checkpoints == 2
    scores, subject, learner = scoring.evaluate(found, "validation")
    assert scores["knn_top1"] == history[-1]["knn_top1"]
    assert learner.step_index == 8 and subject.config.evaluation.network == "student"
    tested, teachers, _ = scoring.evaluate(found, "test", changes={"evaluation.network": "teacher"})
    assert set(tested) == {"knn_top1", "knn1_top1", "linear_top1", "linear_top5", "linear_best_top1"}
    assert all(0 < score <= 1 for score in tested.values())
    assert tested != scoring.evaluate(found, "test")[0] and teachers.config.evaluation.network == "teacher"


def test_an_evaluation_takes_a_recipe_whole(tiny, tmp_path: Path):
    """Another recipe replaces what the trial set of a protocol; what is set beside the recipe stays."""
    train.fit(tiny({"train.epochs": 0, "evaluation.linear.epochs": 2, "evaluation.knn.k": 3}), tmp_path, go_on)
    found = checkpoint.newest(tmp_path)
    assert found is not None
    changes = {"evaluation.linear.recipe": "eman", "evaluation.linear.lr": 7.0}
    config = c.changed(with_recipe(found.values["config"], changes), changes)
    linear = config.evaluation.protocol("linear")
    assert linear.epochs == 100 and linear.lr.base == 7.0 and linear.lr.kind == "step" and linear.augment
    assert config.evaluation.protocol("knn").k == 3
    with pytest.raises(UserError, match="protocol classifier: needs a method whose head classifies"):
        scoring.evaluate(found, "validation", ["knn", "classifier"])


def test_a_trial_is_scored_by_the_protocols_that_it_lists(tiny, tmp_path: Path):
    config = tiny({"train.epochs": 1, "evaluation.protocols": ["linear", "label_free"], "evaluation.linear.epochs": 1})
    (metrics,) = train.fit(config, tmp_path, go_on)
    assert (
        metrics.keys() >= {"linear_top1", "linear_best_top1", "rankme", "lidar", "alignment", "uniformity"}
        and "knn_top1" not in metrics
    )
