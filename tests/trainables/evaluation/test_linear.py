"""The linear protocol: against a loop written out, in every head, and the classifier of raw features that it leaves."""

import math

import pytest
import torch
from torch import Tensor

from trainables.data import augment, keyed
from trainables.evaluation.protocols import linear
from trainables.evaluation.protocols.linear import RECIPES, Linear
from trainables.evaluation.subject import Features, Subject
from trainables.networks.group import Group

HEADS = {
    "today": {},
    "raw": {"standardise": False, "init": 0.01},
    "features": {"norm": "features", "init": 0.05},
    "logits": {"norm": "logits", "init": 0.01, "standardise": False},
    "both": {"norm": "logits", "momentum": 0.5, "weight_decay": 1e-3},
    "steps": {"lr": {"kind": "step", "base": 0.3, "milestones": ["2 epochs", "3 epochs"]}, "base_batch": 64},
}


def clouds(count: int, classes: int, spread: float, seed: int, units: float = 1.0) -> Features:
    """Points around the corners of a simplex, far from the origin and in unlike units: 10^-units to 10^units."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    x = torch.eye(classes)[labels] + spread * torch.randn(count, classes, generator=generator)
    return Features(x * torch.logspace(-units, units, classes) + 1, labels)


def norm_of(x: Tensor, eps: float = 1e-5) -> Tensor:
    return (x - x.mean(0)) / (x.var(0, correction=0) + eps).sqrt()


def plain_logits(config: Linear, bank: Features, queries: Features, classes: int, seed: int) -> Tensor:
    """Logits [queries, classes] after training by the formulas in float64, with running statistics kept by hand."""
    x, q = bank.x.double(), queries.x.double()
    if config.standardise:
        x, q = (x - bank.x.double().mean(0)) / bank.x.double().std(0), (q - x.mean(0)) / x.std(0)
    generator = keyed.generator(seed, "linear", "classifier")
    weight = (torch.randn(classes, x.shape[1], generator=generator) * config.init).double().requires_grad_()
    bias, gain, shift = (torch.full((classes,), v, dtype=torch.float64, requires_grad=True) for v in (0.0, 1.0, 0.0))
    learnt = [weight, bias, gain, shift] if config.norm == "logits" else [weight, bias]
    buffers = [torch.zeros_like(p) for p in learnt]
    width = classes if config.norm == "logits" else x.shape[1]
    mean, var = torch.zeros(width, dtype=torch.float64), torch.ones(width, dtype=torch.float64)
    batch = min(config.batch_size, len(x))
    steps = len(x) // batch
    for step in range(config.epochs * steps):
        epoch, at = divmod(step, steps)
        index = keyed.permutation(len(x), seed, epoch, "linear")[at * batch : (at + 1) * batch]
        if config.lr.kind == "step":
            lr = 0.3 * 0.1 ** ((epoch >= 2) + (epoch >= 3))
        else:
            lr = config.lr.base * (1 + math.cos(math.pi * step / (config.epochs * steps))) / 2
        lr *= batch / (config.base_batch or batch)
        seen = norm_of(x[index]) if config.norm == "features" else x[index]
        logits = seen @ weight.T + bias
        normed = logits if config.norm != "logits" else norm_of(logits) * gain + shift
        watched = {"features": x[index], "logits": logits.detach(), "none": None}[config.norm]
        if watched is not None:
            mean, var = 0.9 * mean + 0.1 * watched.mean(0), 0.9 * var + 0.1 * watched.var(0)
        loss = -normed.log_softmax(1)[torch.arange(batch), bank.labels[index]].mean()
        for p, g, buffer in zip(learnt, torch.autograd.grad(loss, learnt), buffers, strict=True):
            buffer.mul_(config.momentum).add_(g + config.weight_decay * p.detach())
            p.data.sub_(lr * buffer)
    with torch.no_grad():
        if config.norm == "features":
            q = (q - mean) / (var + 1e-5).sqrt()
        logits = q @ weight.T + bias
        return logits if config.norm != "logits" else (logits - mean) / (var + 1e-5).sqrt() * gain + shift


@pytest.mark.parametrize("values", HEADS.values(), ids=HEADS)
def test_a_classifier_equals_one_that_is_trained_by_hand(values):
    """In every head; 50 images in batches of 16, of which the last partial one is dropped."""
    bank, queries = clouds(50, 5, 0.3, seed=0), clouds(20, 5, 0.3, seed=1)
    config = Linear(epochs=4, batch_size=16, **values)
    trained = config.train(bank, queries, 5, seed=3)
    expected = plain_logits(config, bank, queries, 5, seed=3)
    torch.testing.assert_close(trained.classifier(queries.x).double(), expected, rtol=2e-3, atol=2e-3)
    assert expected.std() > 0.1


def test_separable_features_are_separated():
    bank, queries = clouds(400, 6, 0.05, seed=0), clouds(200, 6, 0.05, seed=1)
    curve = Linear(epochs=30).train(bank, queries, 6).curve
    assert list(curve) == [10, 20, 30] and curve[30] == {"linear_top1": 1.0, "linear_top5": 1.0}
    shuffled = Features(bank.x, bank.labels[torch.randperm(400, generator=torch.Generator().manual_seed(0))])
    assert Linear(epochs=30).train(shuffled, queries, 6).curve[30]["linear_top1"] < 0.5


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_separates_what_is_separable(recipe):
    """As it is, but for augmentation: these features have no images."""
    bank, queries = clouds(400, 6, 0.05, seed=0, units=0), clouds(200, 6, 0.05, seed=1, units=0)
    config = Linear(recipe=recipe, augment=False)
    assert config.augment is False and Linear(recipe=recipe).augment
    curve = config.train(bank, queries, 6).curve
    assert max(curve) == config.epochs and len(curve) == -(-config.epochs // 10)
    assert curve[config.epochs]["linear_top1"] == 1.0


def test_the_numbers_of_the_recipes():
    """REFERENCE.md F, typed a second time: epochs, rate at batch 256, kind and milestones, head, rate at 512."""
    steps, few = ("60 epochs", "80 epochs"), ("30 epochs", "40 epochs")
    table = {
        "momentum2": (80, 0.2, "cosine", (), "logits", 0.4),
        "momentum2-stl10": (80, 0.5, "cosine", (), "logits", 1.0),
        "moco": (100, 30, "step", steps, "logits", 60),
        "eman": (100, 30, "step", steps, "none", 30),
        "eman-few": (50, 30, "step", few, "none", 30),
        "lightly": (90, 0.1, "cosine", (), "none", 0.2),
        **{
            f"solo-{m}": (100, lr, "step", steps, "none", 2 * lr)
            for m, lr in zip(("byol", "dino", "ressl"), (0.3, 0.3, 3), strict=True)
        },
        **{
            f"solo-{m}": (100, lr, "step", steps, "none", 2 * lr)
            for m, lr in zip(("moco", "simclr", "simsiam"), (3, 1, 30), strict=True)
        },
    }
    assert set(table) == set(RECIPES)
    for recipe, (epochs, lr, kind, milestones, norm, doubled) in table.items():
        made = Linear(recipe=recipe)
        assert (made.epochs, made.lr.base, made.lr.kind, made.lr.milestones, made.norm) == (
            epochs,
            lr,
            kind,
            milestones,
            norm,
        )
        assert made.lr.base * 512 / (made.base_batch or 512) == pytest.approx(doubled)
        assert (made.batch_size, made.momentum, made.weight_decay, made.init, made.crop_scale) == (
            256,
            0.9,
            0,
            0.01,
            (0.08, 1.0),
        )


def test_what_is_set_beside_a_recipe_counts_above_it():
    made = Linear.model_validate({"recipe": "moco", "lr": 3.0, "epochs": 7})
    assert (
        made.lr.base == 3.0
        and made.lr.kind == "step"
        and made.lr.milestones == ("60 epochs", "80 epochs")
        and made.epochs == 7
    )


def test_best_and_last_epoch(monkeypatch, tiny, digits, learner_of):
    config = tiny({"evaluation.linear": {"epochs": 5, "every_epochs": 2, "batch_size": 16}})
    protocol = config.evaluation.protocol("linear")
    assert isinstance(protocol, Linear)
    subject = Subject(learner_of(config).student.parts, config, digits, digits, Group())
    curve = protocol.trained(subject).curve
    assert list(curve) == [2, 4, 5]
    curve[2]["linear_top1"] = 0.99  # as if the second epoch had been lucky
    found = protocol.measure(subject)
    assert found["linear_best_top1"] == 0.99 and found["linear_top1"] == curve[5]["linear_top1"] < 0.99
    assert (
        protocol.trained(subject).curve is curve
        and linear.frozen_probe(subject) is protocol.trained(subject).classifier
    )


def test_augmented_features_are_new_in_each_epoch(tiny, digits, learner_of):
    """Cropped and flipped under the protocol's own keys; the crops are those that it names, the rest is the trial's."""
    config = tiny(
        {"evaluation.linear": {"epochs": 2, "augment": True, "crop_scale": [0.3, 0.6]}, "data.labels.per_class": 3}
    )
    parts = learner_of(config).student.parts
    subject = Subject(parts, config, digits, digits, Group())
    protocol, given = config.evaluation.protocol("linear"), []
    assert isinstance(protocol, Linear)
    encode = subject.encode
    subject.encode = lambda *a, **k: given.append(encode(*a, **k)) or given[-1]  # type: ignore[method-assign]
    protocol.measure(subject)
    bank, queries, first, second = given
    assert bank.shape == first.shape == second.shape == (30, 32) and len(queries) == 64
    assert not torch.equal(first, second) and not torch.equal(first, bank)
    views = config.views.model_copy(update={"crop_scale": (0.3, 0.6), "turn": 0.0, "noise": 0.0})
    images = digits.batch(subject.labelled, torch.device("cpu"), torch.float32)
    x = augment.view(images, subject.labelled, 0, "weak", views, config.seed, "linear", 1)
    parts.eval()
    with torch.no_grad():
        for name in ("conv1", "block1", "block2", "block3", "block4"):
            x = parts[name](x)
    torch.testing.assert_close(second, x, rtol=1e-4, atol=1e-5)


def test_the_linear_protocol_is_keyed_and_takes_constant_features():
    bank = clouds(60, 4, 0.3, seed=0)
    bank = Features(torch.cat([bank.x, torch.zeros(60, 2)], dim=1), bank.labels)
    config = Linear(epochs=2, batch_size=16)
    first, again, other = (config.train(bank, bank, 4, seed=seed).classifier for seed in (0, 0, 1))
    assert torch.equal(first.weight, again.weight) and first.weight.isfinite().all()
    assert not torch.equal(first.weight, other.weight)
