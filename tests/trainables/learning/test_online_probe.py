"""The online probe: learns the labels beside the student, and leaves no trace in it."""

import pytest
import torch

from tests.trainables.feeds import feed_of
from tests.trainables.learning.test_methods import take_steps
from trainables.config import equivalence, schedules
from trainables.config import trial as c
from trainables.config.errors import UserError
from trainables.data import augment
from trainables.data import images as data
from trainables.data.feed import with_known_labels
from trainables.learning.learner import Learner
from trainables.networks.group import Group
from trainables.running import scoring


@pytest.mark.parametrize("name", ["sgd", "lars"])
def test_the_student_is_the_same_with_a_probe_and_without(tiny, digits, name):
    alone, probed = (
        Learner(tiny({"optim.name": name, "train.exact": False, "online_probe.lr": lr}), 1, 64, Group(), 10)
        for lr in (0.0, 0.1)
    )
    losses = [take_steps(learner, digits, 0, 4) for learner in (alone, probed)]
    assert losses[0] == losses[1]
    there = probed.student.state_dict()
    assert {key for key in there if key not in alone.student.state_dict()} == {"probe.weight", "probe.bias"}
    assert all(torch.equal(tensor, there[key]) for key, tensor in alone.student.state_dict().items())


def test_its_step_is_that_of_plain_cross_entropy(tiny, digits):
    """Mean over both views and all samples, features without gradient, no decay, the schedule of the student's rate."""
    values = {
        "train.precision": "fp64",
        "optim.lr": {"kind": "cosine", "base": 0.04},
        "optim.weight_decay": 0.1,
        "online_probe.lr": 0.4,
    }
    learner = Learner(tiny(values), 1, 64, Group(), 10)
    weight, bias = (p.detach().clone() for p in learner.student.probe.parameters())
    features: list[torch.Tensor] = []
    learner.student.parts["block4"].register_forward_hook(
        lambda module, inputs, output: features.append(output.detach())
    )
    buffers = [torch.zeros_like(weight), torch.zeros_like(bias)]
    for step in range(2):
        features.clear()
        at = step * 16
        learner.step(feed_of(learner, digits).batches(torch.arange(64), step, 0))
        x = torch.cat(features)  # of both views, shard by shard
        labels = torch.cat([digits.labels[at : at + 8].repeat(2), digits.labels[at + 8 : at + 16].repeat(2)])
        p = (x @ weight.T + bias).softmax(-1) - torch.nn.functional.one_hot(labels, 10)
        lr = schedules.at(learner.config.optim.lr, step, learner.run) * 10
        for tensor, buffer, grad in zip((weight, bias), buffers, (p.T @ x / len(x), p.mean(0)), strict=True):
            buffer.mul_(0.9).add_(grad)
            tensor -= lr * buffer
    torch.testing.assert_close(learner.student.probe.weight.detach(), weight, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(learner.student.probe.bias.detach(), bias, rtol=1e-9, atol=1e-12)


def test_pictures_without_a_label_add_nothing(tiny, digits):
    learner = Learner(tiny({"online_probe.lr": 0.1, "train.exact": False}), 1, 64, Group(), 10)
    before = learner.student.probe.weight.detach().clone()
    unlabelled = data.Images(digits.pixels, digits.rows, torch.full_like(digits.labels, -1))
    take_steps(learner, unlabelled, 0, 2)
    assert torch.equal(learner.student.probe.weight, before)


def test_it_learns_only_labels_that_the_trial_has(tiny, digits):
    config = tiny({"online_probe.lr": 0.1, "data.labels.per_class": 1})
    shown = with_known_labels(config, digits)
    known = data.labelled(digits, config.data.labels)
    assert torch.equal((shown.labels >= 0).nonzero()[:, 0], known) and torch.equal(
        shown.labels[known], digits.labels[known]
    )
    assert with_known_labels(tiny({"online_probe.lr": 0.1}), digits) is digits


def test_it_is_a_part_of_the_state_and_goes_on(tiny, digits):
    config = tiny({"online_probe.lr": 0.1})
    whole, resumed = (Learner(config, 1, 64, Group(), 10) for _ in range(2))
    take_steps(whole, digits, 0, 2)
    tensors, values = whole.state_dict()
    resumed.load_state_dict({name: tensor.clone() for name, tensor in tensors.items()}, values)
    for learner in (whole, resumed):
        take_steps(learner, digits, 2, 4)
    assert torch.equal(whole.student.probe.weight, resumed.student.probe.weight)


def test_its_score_is_that_of_its_logits(tiny, digits):
    config = tiny({"online_probe.lr": 0.1, "evaluation.protocols": ["knn", "online"]})
    learner = Learner(config, 1, 64, Group(), 10)
    take_steps(learner, digits, 0, 8)
    found = scoring.score(learner, digits, digits)
    images = augment.standardise(digits.batch(torch.arange(64), torch.device("cpu"), torch.float32))
    learner.student.eval()
    features = learner.student(images, learner.shards.layout()).features
    expected = (learner.student.probe(features).argmax(1) == digits.labels).float().mean()
    assert found["online_top1"] == pytest.approx(expected.item()) and "knn_top1" in found
    for values in (
        {},
        {"online_probe.lr": 0.1, "encoder.feature_norm": "pooled", "evaluation.before_feature_norm": True},
    ):
        with pytest.raises(UserError, match="online needs (an online probe|features as the online probe)"):
            tiny({**values, "evaluation.protocols": ["online"]})


def test_its_rate_follows_the_batch():
    base = c.parse({"online_probe": {"lr": 0.1}, "train": {"batch_size": 64, "shard_size": 32}})
    assert equivalence.scaled_batch(base, 128).online_probe.lr == pytest.approx(0.2)
