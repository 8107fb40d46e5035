"""A step against one written plainly, the state of a Learner, and that it learns."""

import copy
from pathlib import Path

import pytest
import torch

from tests.trainables.feeds import feed_of
from tests.trainables.layouts import through
from trainables.config import schedules
from trainables.config import trial as c
from trainables.data import augment
from trainables.learning.learner import Learner
from trainables.networks.group import Group
from trainables.networks.norms.base import begin, norms_of
from trainables.running import checkpoint
from trainables.running.resolve import resolved


def learner_of(config: c.TrialConfig, images: int = 64) -> Learner:
    return Learner(resolved(config, 0), 1, images, Group())


def take_steps(learner: Learner, digits, first: int, last: int) -> list[float]:
    """Losses of the batch in steps `first` to `last` - 1, as `fit` would take them."""
    losses = []
    for step in range(first, last):
        epoch, at = divmod(step, learner.run.per_epoch)
        order = torch.arange(len(digits)).roll(step)
        losses.append(learner.step(feed_of(learner, digits).batches(order, at, epoch)).item() / learner.shards.total)
    return losses


def everything(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in learner.state_dict()[0].items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@torch.no_grad()
def average(own: list[torch.nn.Parameter], students: list[torch.nn.Parameter], beta: float) -> None:
    for q, p in zip(own, students, strict=True):
        q.copy_(beta * q + (1 - beta) * p)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("update", ["before", "after"])
def test_invariant_07_steps_equal_plain_byol(tiny, digits, exact, update):
    """Views and shards one by one, gradients by backward, SGD by its formula; the teacher averages before, or after."""
    # Fails when the update after a step uses the next step's momentum.
    values = {"train.precision": "fp64", "train.exact": exact, "optim.lr.warmup": 0.5, "optim.weight_decay": 0.01}
    learner = learner_of(tiny({**values, "teacher.update": update}))
    student, teacher = copy.deepcopy(learner.student), copy.deepcopy(learner.teacher.parts)
    student.tap = None
    weights, own = list(student.parameters()), list(teacher.parameters())
    buffers = [torch.zeros_like(p) for p in weights]
    averaged = [p for name, p in student.named_parameters() if name.startswith("parts.")]
    for step in range(3):
        beta, lr = learner.teacher.momentum(step, learner.run), schedules.at(learner.config.optim.lr, step, learner.run)
        samples = torch.arange(64).roll(step)[16 * step : 16 * step + 16]
        images = digits.batch(samples, torch.device("cpu"), torch.float64)
        views = augment.views(images, samples, ("full", "full"), learner.config.views, 0, 0)
        if update == "before":
            average(own, averaged, beta)
        begin(norms_of(student, teacher), 0.0)
        losses = []
        for shard in range(2):
            layout = learner.shards.layout(range(shard, shard + 1))
            a, b = (view[8 * shard : 8 * shard + 8] for view in views)
            with torch.no_grad():
                targets = [through(teacher, view, layout) for view in (b, a)]
            predictions = [student(view, layout).prediction for view in (a, b)]
            losses += [2 - 2 * torch.cosine_similarity(p, t) for p, t in zip(predictions, targets, strict=True)]
        loss = torch.stack(losses).view(2, 2, 8).sum(1).mean()
        grads = torch.autograd.grad(loss, weights)
        for norm in norms_of(student):
            for mean, var in torch.stack([pending.views[:, 0] for pending in norm.pending]).mean(0):
                norm.running_mean += 0.1 * (mean - norm.running_mean)
                norm.running_var += 0.1 * (var - norm.running_var)
        with torch.no_grad():
            for p, g, buffer in zip(weights, grads, buffers, strict=True):
                buffer.mul_(0.9).add_(g + 0.01 * p)
                p -= lr * buffer
        if update == "after":
            average(own, averaged, beta)
        found = take_steps(learner, digits, step, step + 1)[0]
        assert found == pytest.approx(loss.item(), rel=1e-10)
    for name, tensor in learner.student.state_dict().items():
        torch.testing.assert_close(tensor, student.state_dict()[name], rtol=1e-8, atol=1e-10)
    for name, p in learner.teacher.parts.named_parameters():
        torch.testing.assert_close(p, dict(teacher.named_parameters())[name], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    "values",
    [{"train.exact": False}, {"train.channels_last": False}, {"train.exact": False, "train.channels_last": False}],
)
def test_how_the_arithmetic_is_done_does_not_matter(tiny, digits, values):
    configs = [tiny({"train.precision": "fp64", "teacher.norm.kind": "momentum", **extra}) for extra in ({}, values)]
    first, second = (take_steps(learner_of(config), digits, 0, 4) for config in configs)
    assert first == pytest.approx(second, rel=1e-9)


def test_bf16_starts_as_fp32_does_and_keeps_its_state_in_fp32(tiny, digits):
    learners = [
        learner_of(tiny({"train.precision": precision, "teacher.norm.kind": "momentum"}))
        for precision in ("fp32", "bf16")
    ]
    (single,), (half, *_) = (
        take_steps(learner, digits, 0, count) for learner, count in zip(learners, (1, 3), strict=True)
    )
    assert half == pytest.approx(single, rel=0.02) and half != single
    assert {tensor.dtype for tensor in everything(learners[1]).values()} == {torch.float32}


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"teacher.norm.kind": "momentum", "teacher.smoothing.kind": "sts", "teacher.placement": "backbone"},
        {"teacher.norm.kind": "eman", "teacher.placement": "projector", "optim.name": "lars"},
        {"teacher.placement": "none", "train.precision": "bf16"},
        {
            "teacher.smoothing": {"kind": "se", "granularity": "channel", "coupled": True},
            "teacher.norm.kind": "sync",
            "encoder.norm": "sync",
        },
        {
            "teacher.smoothing": {"kind": "sts", "granularity": "neuron", "p": {"kind": "linear", "base": 0.9}},
            "teacher.norm.kind": "shuffle",
        },
        {"teacher.norm": {"kind": "momentum", "history": "shared", "variance": "released"}, "teacher.update": "after"},
        {
            "teacher.norm": {"kind": "eman", "warm_start": "4 steps"},
            "teacher.momenta": {"fc2": 0.5},
            "train.base_batch": 32,
        },
        {
            "encoder.name": "wrn28-2",
            "encoder.feature_norm": "map",
            "encoder.output_norm": True,
            "teacher.smoothing.first_copy": "masked",
        },
        {"encoder.norm": "momentum", "teacher.norm.kind": "eman", "teacher.placement": "projector"},
        {
            "encoder.norm": {"kind": "momentum", "lazy": False, "alpha": 0.3},
            "teacher.norm": {"kind": "momentum", "lazy": False},
            "encoder.output_norm": True,
        },
        {"encoder.norm": {"kind": "group", "groups": 2}, "encoder.feature_norm": "pooled"},
        {"encoder.norm": "none", "optim.name": "lars", "optim.lr": 0.001},
    ],
)
def test_invariant_22_state_goes_through_a_file_and_on(tiny, digits, tmp_path: Path, values):
    """Nothing else is needed: the other Learner begins with other weights, and with another global generator."""
    # Fails when the step is forgotten.
    config = tiny(values)
    learner, other = learner_of(config), learner_of(config)
    take_steps(learner, digits, 0, 3)
    take_steps(other, digits, 5, 6)
    tensors, plain = learner.state_dict()
    found = checkpoint.read(checkpoint.write(tmp_path, 3, tensors, plain, keep=1))
    other.load_state_dict(found.tensors, found.values)
    assert same(everything(learner), everything(other)) and other.step_index == 3
    torch.manual_seed(99)
    assert take_steps(learner, digits, 3, 6) == take_steps(other, digits, 3, 6)
    assert same(everything(learner), everything(other))
    assert learner.close_epoch() == other.close_epoch()


def test_a_state_names_everything_that_moves(tiny, digits):
    learner = learner_of(tiny({"teacher.norm.kind": "momentum", "teacher.placement": "projector"}))
    before = everything(learner)
    take_steps(learner, digits, 0, 2)
    tensors = everything(learner)
    students, slots = (
        {name.split(".", 1)[1] for name in tensors if name.startswith(kind)} for kind in ("student.", "optimizer.")
    )
    assert students == set(learner.student.state_dict())
    assert slots == {f"{name}.momentum_buffer" for name, _ in learner.student.named_parameters()}
    teachers = {name for name in tensors if name.startswith("teacher.")}
    assert teachers == {
        *(f"teacher.fc1.{name}" for name in ("0.weight", "0.bias", "1.weight", "1.bias", "1.history")),
        *("teacher.fc2.0.weight", "teacher.fc2.0.bias"),
    }
    still = [name for name, tensor in before.items() if torch.equal(tensor, tensors[name])]
    assert not still


@pytest.mark.parametrize(
    "values", [{"encoder.width": 6}, {"teacher.placement": "projector"}, {"teacher.norm.kind": "momentum"}]
)
def test_a_state_that_does_not_fit_is_refused(tiny, values):
    tensors, plain = learner_of(tiny()).state_dict()
    with pytest.raises(ValueError, match="does not fit this configuration"):
        learner_of(tiny(values)).load_state_dict(tensors, plain)


def test_loss_sums_of_several_workers_are_added_up(tiny, digits):
    learner = learner_of(tiny())
    tensors, plain = learner.state_dict()
    learner.load_state_dict(tensors, {**plain, "step": 4, "loss_sums": [3.0, 5.0, 8.0]})
    assert learner.close_epoch()["loss"] == pytest.approx(16.0 / (4 * 2))


def test_weights_are_a_function_of_the_seed_alone(tiny):
    torch.manual_seed(1)
    first = everything(learner_of(tiny()))
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert same(everything(learner_of(tiny())), first)
    assert not same(everything(learner_of(tiny({"seed": 1}))), first)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)  # building a Learner draws nothing from the global generator


def test_what_an_epoch_says(tiny, digits):
    config = tiny(
        {
            "teacher.norm.kind": "momentum",
            "teacher.smoothing.kind": "sts",
            "teacher.smoothing.p": 0.25,
            "optim.lr.warmup": 0.5,
        }
    )
    learner = learner_of(config)
    first = take_steps(learner, digits, 0, 4)
    told = learner.close_epoch()
    assert told["loss"] == pytest.approx(sum(first) / 4)
    assert told["momentum"] == learner.teacher.momentum(3, learner.run) and told["alpha"] == learner.teacher.alpha(
        3, learner.run
    )
    assert (
        told["p"] == 0.25
        and told["lr"] == schedules.at(config.optim.lr, 3, learner.run)
        and told["teacher_distance"] == learner.teacher.distance() > 0
    )
    assert 0.1 < told["embedding_std"] < 1.1
    second = take_steps(learner, digits, 4, 8)
    assert learner.close_epoch()["loss"] == pytest.approx(sum(second) / 4)


def test_embedding_std_against_its_formula(tiny, digits):
    learner, projections = learner_of(tiny()), []
    learner.student.parts["fc2"].register_forward_hook(
        lambda module, inputs, output: projections.append(output.detach())
    )
    take_steps(learner, digits, 0, 1)
    spreads = []
    for projection in projections:
        unit = projection / projection.norm(dim=1, keepdim=True)
        spreads.append(((unit - unit.mean(0)).square().sum(0) / (len(unit) - 1)).sqrt().mean().item() * 16**0.5)
    assert len(spreads) == 2 and learner.spread_sum().item() / 2 == pytest.approx(sum(spreads) / 2, rel=1e-5)


def test_byol_learns_digits(tiny, digits):
    """From the 4 of unrelated embeddings well down within 60 steps, and not by collapse."""
    learner = learner_of(tiny({"train.epochs": 12, "train.exact": False}))
    losses = take_steps(learner, digits, 0, 48)
    assert losses[0] > 3 and sum(losses[-5:]) / 5 < 0.5 * losses[0]
    assert learner.spread_sum().item() / learner.shards.total > 0.3
