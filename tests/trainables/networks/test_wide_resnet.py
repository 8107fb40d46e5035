"""Wide ResNets with every kind of norm against their formula, and with every placement of the teacher."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.trainables.feeds import feed_of
from tests.trainables.layouts import through
from trainables.config import trial as c
from trainables.config.encoder import StudentNorm
from trainables.config.norms import STUDENT_NORMS
from trainables.data.images import Images
from trainables.learning.learner import Learner
from trainables.networks.encoders import WideBlock, backbone_of, build_parts, run_parts
from trainables.networks.norm_kinds import factory
from trainables.networks.norms.base import Shards, laid_out, norms_of

SHARDS = Shards(4, 1, range(1))
SLOPE = 0.1
any_norm = pytest.mark.parametrize("kind", STUDENT_NORMS)
any_mode = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])


def disturbed(module: nn.Module, training: bool) -> nn.Module:
    """In float64, with weights and statistics of norms that are not the initial ones."""
    generator = torch.Generator().manual_seed(3)
    module = module.double().train(training)
    for norm in norms_of(module):
        for tensor in norm.state_dict().values():
            tensor.copy_(torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype) + 0.5)
    return module


def normalised(x: Tensor, norm: nn.Module, kind: str, training: bool) -> Tensor:
    """The plain formula. With 4 to 32 channels and `groups` 1, group norm is layer norm; alpha is 1."""
    if kind == "none":
        return x
    shape = (1, -1, 1, 1)
    if kind in ("layer", "group"):
        dims = [1, 2, 3]
    elif training:
        dims = [0, 2, 3]
    else:
        mean, var = norm.evaluation_statistics()
        normed = (x - mean.view(shape)) / (var.view(shape) + 1e-5).sqrt()
        return normed * norm.weight.view(shape) + norm.bias.view(shape)
    mean = x.mean(dims, keepdim=True)
    var = (x - mean).square().mean(dims, keepdim=True)
    return (x - mean) / (var + 1e-5).sqrt() * norm.weight.view(shape) + norm.bias.view(shape)


def by_hand(block: WideBlock, x: Tensor, kind: str, training: bool, stride: int) -> Tensor:
    """Zagoruyko and Komodakis 2016, fig. 1 (d): norm, activation and convolution, twice, beside a shortcut."""
    active = F.leaky_relu(normalised(x, block.bn1, kind, training), SLOPE)
    inner = F.conv2d(active, block.conv1.weight, stride=stride, padding=1)
    inner = F.leaky_relu(normalised(inner, block.bn2, kind, training), SLOPE)
    residue = F.conv2d(inner, block.conv2.weight, padding=1)
    return residue + (x if block.shortcut is None else F.conv2d(active, block.shortcut.weight, stride=stride))


def norm_of(kind: str) -> StudentNorm:
    return StudentNorm.model_validate({"kind": kind, "groups": 1})


@any_mode
@any_norm
@pytest.mark.parametrize(("outputs", "stride"), [(4, 1), (8, 2)])
def test_a_block_is_its_formula_and_leaves_its_input(
    kind: str, training: bool, outputs: int, stride: int, rng: torch.Generator
) -> None:
    torch.manual_seed(0)
    block = disturbed(WideBlock(4, outputs, stride, factory(norm_of(kind), SHARDS)), training)
    assert isinstance(block, WideBlock)
    x = torch.randn(4, 4, 6, 6, generator=rng, dtype=torch.float64)
    ours, theirs = x.clone(), x.clone().requires_grad_()
    through(block, ours)
    assert torch.equal(ours, x), "the input is still needed by the shortcut, and by a teacher that taps it"
    ours.requires_grad_()
    found, expected = through(block, ours), by_hand(block, theirs, kind, training, stride)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11)
    weight = torch.randn(found.shape, generator=rng, dtype=torch.float64)
    names = [name for name, _ in block.named_parameters()]
    for y, inputs in ((found, ours), (expected, theirs)):
        (y * weight).sum().backward(inputs=[inputs, *block.parameters()])
        gradients = {name: block.get_parameter(name).grad for name in names}
        block.zero_grad()
        if inputs is ours:
            first = gradients
    torch.testing.assert_close(first, gradients, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-8, atol=1e-9)


def plain_parts(parts: nn.ModuleDict, x: Tensor, kind: str, training: bool) -> dict[str, Tensor]:
    """The output of each part of the backbone, by name."""
    found = {"conv1": F.conv2d(x, parts["conv1"][0].weight, padding=1)}
    x = found["conv1"]
    for name, stride in (("block1", 1), ("block2", 2), ("block3", 2)):
        for index in range(4):
            x = by_hand(parts[name][index], x, kind, training, stride if index == 0 else 1)
        found[name] = x
    active = F.leaky_relu(normalised(x, parts["block3"][4], kind, training), SLOPE)
    return {**found, "block3": active.mean((2, 3))}


@any_mode
@any_norm
def test_a_network_and_each_of_its_parts_are_their_formula(kind: str, training: bool, rng: torch.Generator) -> None:
    """Each output is as it was when all later parts have run, so that it can be tapped."""
    torch.manual_seed(0)
    encoder = c.Encoder(name="wrn28-2", width=4, norm=norm_of(kind), projector=c.Head(hidden=8, out=4))
    parts = disturbed(build_parts(encoder, 3, SHARDS), training)
    assert isinstance(parts, nn.ModuleDict)
    x = torch.randn(4, 3, 8, 8, generator=rng, dtype=torch.float64)
    expected, seen = plain_parts(parts, x, kind, training), {}
    y = x
    with laid_out(norms_of(parts), SHARDS.layout()):
        for name, part in backbone_of(parts).items():
            y = seen[name] = part(y)
    assert list(seen) == list(expected)
    for name, output in expected.items():
        torch.testing.assert_close(seen[name], output, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("method", ["byol", "simclr", "dino"])
@pytest.mark.parametrize(
    "placement",
    ["whole", "backbone", "projector", "none", "conv1", "block1", "block2", "block3", "fc1", "fc2",
     ["block3", "fc1"], ["block2", "fc2"], ["conv1", "projector"]],
    ids=str,
)  # fmt: skip
def test_every_placement_without_norms(
    tiny: Callable[..., c.TrialConfig],
    digits: Images,
    learner_of: Callable[[c.TrialConfig], Learner],
    method: str,
    placement: str | list[str],
) -> None:
    """What the teacher gets is what the parts before it compute of the pictures; and a step can be made."""
    values: dict[str, Any] = {"method.name": method, "encoder.name": "wrn28-2", "encoder.norm": "none",
                              "encoder.width": 2, "teacher.placement": placement, "train.batch_size": 4,
                              "train.shard_size": 4, "optim.lr": 0.001, "monitors": ["gradients"]}  # fmt: skip
    learner = learner_of(tiny(values))
    student = learner.student
    pictures = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    before, names = copy.deepcopy(student.parts), list(student.parts)
    tapped = student(pictures, learner.shards.layout(samples=4)).tapped
    expected = pictures
    with torch.no_grad():
        if learner.teacher.tap is not None:
            first = nn.ModuleDict({name: before[name] for name in names[: names.index(learner.teacher.tap) + 1]})
            expected = run_parts(first, pictures)
    assert torch.equal(tapped, expected)
    batches = feed_of(learner, digits, digits).batches(torch.arange(64), 0, 0)
    assert learner.step(batches).isfinite()
    moved = {name for name, p in student.parts.named_parameters() if not torch.equal(p, before.get_parameter(name))}
    assert {name.partition(".")[0] for name in moved} >= {*names} - {"fc2"}, "DINO holds fc2 still at first"
