"""Trials with each norm of the student, through training, every kind of score, a checkpoint and back."""

import math
from pathlib import Path

import pytest
import torch

from trainables.config.norms import STUDENT_NORMS
from trainables.evaluation.subject import Subject
from trainables.networks.encoders import plain, run_parts
from trainables.running import checkpoint
from trainables.running.fit import fit
from trainables.running.scoring import evaluate

PROTOCOLS = ["online", "knn", "linear", "finetune", "label_free"]


@pytest.mark.parametrize("network", ["student", "teacher"])
@pytest.mark.parametrize("norm", STUDENT_NORMS)
def test_a_trial_is_scored_and_a_plain_copy_says_the_same(tiny, tmp_path: Path, norm, network):
    """With the norms of features and output, and all norms in the head; monitors included."""
    config = tiny(
        {
            "encoder.norm": {"kind": norm, "groups": 2},
            "encoder.feature_norm": "pooled",
            "encoder.output_norm": True,
            "encoder.projector": {"hidden": 16, "out": 16, "norm": "all"},
            "teacher.placement": "projector",
            "online_probe.lr": 0.1,
            "optim.lr": 0.01,
            "train.epochs": 1,
            "monitors": ["distance", "statistics", "embedding", "gradients", "drift"],
            "evaluation.network": network,
            "evaluation.protocols": PROTOCOLS if network == "student" else PROTOCOLS[1:],
            "evaluation.linear": {"epochs": 1},
            "evaluation.finetune": {"epochs": 1, "reestimate": True},
        }
    )
    (metrics,) = fit(config, tmp_path, lambda metrics: "on")
    assert all(math.isfinite(value) for value in metrics.values() if isinstance(value, float))
    assert ("monitor/statistics/mean" in metrics) == config.encoder.norm.batch_statistics
    found = checkpoint.newest(tmp_path)
    assert found is not None
    scores, subject, _ = evaluate(found, "validation", ["knn"])
    assert {name: metrics[name] for name in scores} == scores
    assert isinstance(subject, Subject)
    images = torch.rand(4, 1, 8, 8)
    with torch.no_grad():
        expected = run_parts(subject.parts.eval(), images)
        torch.testing.assert_close(run_parts(plain(subject.parts).eval(), images), expected, rtol=1e-4, atol=1e-5)
