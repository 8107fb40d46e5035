"""Fine-tuning: what it trains, how its norms behave, and that it learns."""

from typing import Any

import pytest
import torch
from torch import nn

from trainables.config import trial as c
from trainables.data import augment, keyed
from trainables.data import images as data
from trainables.evaluation.measure import measure
from trainables.evaluation.protocols.finetune import RECIPES, Finetune
from trainables.evaluation.protocols.linear import first_classifier
from trainables.evaluation.subject import Subject, encode
from trainables.learning.learner import Learner
from trainables.networks.encoders import backbone_of, plain, run_parts
from trainables.networks.group import Group
from trainables.networks.norms.base import Norm, PlainNorm

FEW = {"data.labels.per_class": 3}


def made(config: c.TrialConfig) -> Finetune:
    protocol = config.evaluation.protocol("finetune")
    assert isinstance(protocol, Finetune)
    return protocol


@pytest.fixture
def subject_of(digits, learner_of):
    def make(config: c.TrialConfig, network: str = "student") -> Subject:
        return Subject(learner_of(config).network(network), config, digits, digits, Group())

    return make


def randomised(parts: nn.ModuleDict, generator: torch.Generator) -> nn.ModuleDict:
    """With running statistics that a network has after some training."""
    for module in parts.modules():
        if isinstance(module, Norm):
            for name, buffer in module.named_buffers(recurse=False):
                buffer.copy_(
                    torch.rand(buffer.shape, generator=generator) + 0.5
                    if name != "running_mean"
                    else torch.randn(buffer.shape)
                )
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
    return parts


@pytest.mark.parametrize("kind", ["batch", "momentum", "eman"])
@pytest.mark.parametrize("before", [True, False])
def test_a_plain_copy_says_what_the_network_says_in_evaluation(tiny, digits, learner_of, rng, kind, before):
    """Of any norm; and in training its norms are torch's over the batch."""
    config = tiny(
        {"teacher.norm.kind": kind, "encoder.feature_norm": "pooled", "evaluation.before_feature_norm": before}
    )
    parts = randomised(learner_of(config).network("teacher"), rng)
    network = backbone_of(parts, not before)
    copy = plain(network)
    assert sum(isinstance(module, PlainNorm) for module in copy.modules()) == 12 + (not before)
    assert not any(isinstance(module, Norm) for module in copy.modules())
    assert all(p.requires_grad for p in copy.parameters())
    x = augment.standardise(digits.batch(torch.arange(16), torch.device("cpu"), torch.float32))
    with torch.no_grad():
        torch.testing.assert_close(run_parts(copy.eval(), x), run_parts(network.eval(), x), rtol=1e-4, atol=1e-5)
        copy.train()
        conv, norm = copy["conv1"][0], copy["conv1"][1]
        before_mean, raw = norm.running_mean.clone(), conv(x)
        expected = (raw - raw.mean((0, 2, 3), keepdim=True)) / (
            raw.var((0, 2, 3), correction=0, keepdim=True) + 1e-5
        ).sqrt()
        torch.testing.assert_close(
            norm(raw), expected * norm.weight[:, None, None] + norm.bias[:, None, None], rtol=1e-4, atol=1e-4
        )
        torch.testing.assert_close(norm.running_mean, 0.9 * before_mean + 0.1 * raw.mean((0, 2, 3)))


def network_of(subject: Subject, protocol: Finetune) -> nn.ModuleDict:
    classifier = first_classifier(32, 10, protocol.init, subject.config.seed, "finetune")
    return nn.ModuleDict({"backbone": nn.Sequential(*plain(subject.network()).children()), "classifier": classifier})


def test_re_estimated_statistics_are_means_over_the_batches(tiny, subject_of):
    """Of one more epoch, of the weights as they are in the end; without, they are running ones."""
    options = {"epochs": 2, "batch_size": 8, "reestimate": True}
    config = tiny({**FEW, "evaluation.finetune": options})
    subject, protocol = subject_of(config), made(config)
    network = network_of(subject, protocol)
    list(protocol._train(network, subject))
    first = network["backbone"][0]
    batches = [first[0](x).detach().double() for x, _ in protocol.batches(subject, 8, 2)]
    assert len(batches) == 3  # of 30 images
    means = torch.stack([raw.mean((0, 2, 3)) for raw in batches]).mean(0)
    variances = torch.stack([raw.var((0, 2, 3)) for raw in batches]).mean(0)
    torch.testing.assert_close(first[1].running_mean.double(), means, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(first[1].running_var.double(), variances, rtol=1e-4, atol=1e-5)
    without = protocol.model_copy(update={"reestimate": False})
    other = network_of(subject, without)
    list(without._train(other, subject))
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), other.parameters(), strict=True))
    assert (other["backbone"][0][1].running_mean - means).abs().max() > 1e-3


def test_a_step_of_each_rate(tiny, subject_of):
    """One step of one batch: w <- w - lr (g + decay w), with more for the classifier; by hand in float64."""
    options = {
        "epochs": 1,
        "batch_size": 30,
        "base_batch": 60,
        "lr": 0.2,
        "classifier_factor": 10.0,
        "weight_decay": 0.1,
    }
    config = tiny({**FEW, "train.precision": "fp64", "evaluation.finetune": options})
    subject, protocol = subject_of(config), made(config)
    network = network_of(subject, protocol).double()
    wanted = network_of(subject, protocol).double().train()
    list(protocol._train(network, subject))
    ((x, labels),) = protocol.batches(subject, 30, 0)
    loss = -run_parts(wanted, x).log_softmax(1)[torch.arange(30), labels].mean()
    loss.backward()
    for name, parameter in wanted.named_parameters():
        lr = 0.1 * (10 if name.startswith("classifier") else 1)
        expected = parameter.detach() - lr * (parameter.grad + 0.1 * parameter.detach())
        torch.testing.assert_close(network.get_parameter(name).detach(), expected, rtol=1e-9, atol=1e-12)


def test_batches_are_keyed_and_of_the_images_that_have_labels(tiny, digits, subject_of):
    config = tiny({**FEW, "evaluation.finetune.crop_scale": [0.4, 0.9]})
    subject, protocol = subject_of(config), made(config)
    first, again, other = (list(protocol.batches(subject, 8, epoch)) for epoch in (1, 1, 2))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0][1], other[0][1])
    order = subject.labelled[keyed.permutation(30, config.seed, 1, "finetune")]
    views = config.views.model_copy(update={"crop_scale": (0.4, 0.9), "turn": 0.0, "noise": 0.0})
    for (x, labels), index in zip(first, order[:24].split(8), strict=True):
        images = digits.batch(index, torch.device("cpu"), torch.float32)
        assert torch.equal(x, augment.view(images, index, 0, "weak", views, config.seed, "finetune", 1))
        assert torch.equal(labels, digits.labels[index])


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_runs_and_leaves_the_network_as_it_was(tiny, subject_of, recipe):
    config = tiny({**FEW, "evaluation.finetune": {"recipe": recipe, "epochs": 2}, "evaluation.network": "teacher"})
    subject = subject_of(config, "teacher")
    before = {name: tensor.clone() for name, tensor in subject.parts.state_dict().items()}
    modes = [module.training for module in subject.parts.modules()]
    wanted = [parameter.requires_grad for parameter in subject.parts.parameters()]
    found, again = measure(subject, ["finetune"]), measure(subject, ["finetune"])
    assert found == again and 0 <= found["finetune_top1"] <= found["finetune_best_top1"] <= 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in subject.parts.state_dict().items())
    assert modes == [module.training for module in subject.parts.modules()]
    assert wanted == [parameter.requires_grad for parameter in subject.parts.parameters()]
    assert all(parameter.grad is None for parameter in subject.parts.parameters())


def test_the_numbers_of_the_recipes():
    """REFERENCE.md F, typed out a second time."""
    table: dict[str, tuple[Any, ...]] = {
        "momentum2": (20, 1024, 0.08, "cosine", 1, 0, True, 0.08),
        "momentum2-10": (15, 1024, 0.08, "cosine", 1, 0, True, 0.08),
        "eman": (50, 256, 0.001, "step", 100, 1e-4, False, 0.001),
        "lightly": (30, 256, 0.05, "cosine", 1, 0, False, 0.1),
    }
    assert set(table) == set(RECIPES)
    for recipe, (epochs, batch, lr, kind, factor, decay, reestimate, doubled) in table.items():
        made = Finetune(recipe=recipe)
        found = (
            made.epochs,
            made.batch_size,
            made.lr.base,
            made.lr.kind,
            made.classifier_factor,
            made.weight_decay,
            made.reestimate,
        )
        assert found == (epochs, batch, lr, kind, factor, decay, reestimate) and made.momentum == 0.9
        assert made.lr.base * 2 * batch / (made.base_batch or 2 * batch) == pytest.approx(doubled)
    assert Finetune(recipe="eman").lr.milestones == ("30 epochs", "40 epochs")


def test_fine_tuning_beats_the_frozen_features_of_an_untrained_encoder(tiny):
    """With 20 labels a class."""
    options = {"epochs": 15, "batch_size": 50, "lr": 0.1, "every_epochs": 5}
    values = {
        "data.train_images": 1200,
        "data.labels.per_class": 20,
        "encoder.width": 8,
        "evaluation.finetune": options,
    }
    config = tiny({**values, "data.validation_images": 200, "evaluation.linear.epochs": 30})
    train, validation = (data.load(config.data, split) for split in ("train", "validation"))
    learner = Learner(config, 1, len(train), Group())
    found = measure(Subject(learner.student.parts, config, train, validation, Group()), ["linear", "finetune"])
    assert found["finetune_top1"] > found["linear_top1"] + 0.02
    assert found["finetune_best_top1"] >= found["finetune_top1"]


def test_scores_are_those_of_the_tuned_network(tiny, digits, subject_of):
    config = tiny({**FEW, "evaluation.finetune": {"epochs": 3, "every_epochs": 2}, "evaluation.batch_size": 10})
    subject, protocol = subject_of(config), made(config)
    network = network_of(subject, protocol)
    curve = list(protocol._train(network, subject))
    logits = encode(network, digits, torch.arange(64), 64, Group())
    right = (logits.argmax(1) == digits.labels).float().mean().item()
    assert len(curve) == 2 and curve[-1]["finetune_top1"] == pytest.approx(right)
    assert protocol.measure(subject)["finetune_top1"] == curve[-1]["finetune_top1"]
