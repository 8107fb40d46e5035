"""Encoders in parts against torchvision's ResNets with the same weights."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

from tests.trainables.layouts import through
from trainables.config import trial as c
from trainables.networks.encoders import (
    backbone_of,
    build_parts,
    feature_width,
    mlp,
    plain_resnet_state,
    run_parts,
)
from trainables.networks.norms.base import Norm, Shards, norms_of
from trainables.networks.norms.batch import BatchNorm
from trainables.networks.student import Student

ONE_SHARD = Shards(4, 1, range(1))


def disturbed(parts: nn.ModuleDict) -> nn.ModuleDict:
    """In float64, with norms that are not the initial ones."""
    for norm in norms_of(parts):
        norm.running_mean.normal_(0, 0.1)
        norm.running_var.uniform_(0.5, 1.5)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0, 0.1)
    return parts.double()


def standard(name: str, width: int = 64) -> nn.ModuleDict:
    """Parts with ImageNet's stem, and running statistics that are not the initial ones."""
    torch.manual_seed(0)
    parts = build_parts(
        c.Encoder(name=name, width=width, stem="standard", projector=c.Head(hidden=8, out=4)), 3, ONE_SHARD
    )
    return disturbed(parts).float()


def twin(name: str, parts: nn.ModuleDict) -> nn.Module:
    model = getattr(torchvision.models, name)()
    model.fc = nn.Identity()
    model.load_state_dict(plain_resnet_state(parts), strict=True)
    return model


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_parts_equal_torchvision_in_evaluation(name, rng):
    parts = standard(name).eval()
    model = twin(name, parts).eval()
    x = torch.randn(2, 3, 48, 48, generator=rng)
    with torch.no_grad():
        found, expected = run_parts(backbone_of(parts), x), model(x)
    assert (
        found.shape == (2, feature_width(parts)) and feature_width(parts) == {"resnet18": 512, "resnet50": 2048}[name]
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_parts_equal_torchvision_in_training(rng):
    parts = standard("resnet18").train()
    model = twin("resnet18", parts).train()
    x = torch.randn(4, 3, 48, 48, generator=rng)
    found, expected = through(backbone_of(parts), x), model(x)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    found.sum().backward(), expected.sum().backward()
    torch.testing.assert_close(
        parts["block4"][1].conv2.weight.grad, model.layer4[1].conv2.weight.grad, rtol=1e-2, atol=1e-4
    )


@pytest.mark.parametrize("name", ["resnet10", "resnet18", "resnet34", "resnet50"])
def test_backbones_have_the_names_and_shapes_of_torchvision(name):
    with torch.device("meta"):
        parts = build_parts(c.Encoder(name=name, stem="standard"), 3, ONE_SHARD)
        model = ResNet(BasicBlock, [1, 1, 1, 1]) if name == "resnet10" else getattr(torchvision.models, name)()
    found = {key: tensor.shape for key, tensor in plain_resnet_state(parts).items()}
    assert found == {key: tensor.shape for key, tensor in model.state_dict().items() if not key.startswith("fc.")}


@pytest.mark.parametrize(
    ("stem", "size", "after_stem"), [("small", 8, 8), ("small", 32, 32), ("standard", 32, 8), ("standard", 96, 24)]
)
def test_stems(stem, size, after_stem):
    parts = build_parts(c.Encoder(width=4, stem=stem), 1, ONE_SHARD)
    x = torch.randn(4, 1, size, size)
    sizes = []
    for name in ("conv1", "block1", "block2", "block3"):
        x = through(parts[name], x)
        sizes.append(tuple(x.shape[1:]))
    sides = [after_stem, after_stem, *(-(-after_stem // 2**i) for i in (1, 2))]
    assert sizes == [(width, side, side) for width, side in zip((4, 4, 8, 16), sides, strict=True)]
    assert through(parts["block4"], x).shape == (4, 32)
    kernel, stride = (3, 1) if stem == "small" else (7, 2)
    assert parts["conv1"][0].kernel_size == (kernel, kernel) and parts["conv1"][0].stride == (stride, stride)


@pytest.mark.parametrize(
    ("name", "width", "features"), [("resnet18", 4, 32), ("resnet34", 8, 64), ("resnet50", 4, 128)]
)
def test_feature_width(name, width, features):
    parts = build_parts(c.Encoder(name=name, width=width, projector=c.Head(hidden=6, out=5)), 3, ONE_SHARD)
    assert feature_width(parts) == features
    assert through(backbone_of(parts), torch.randn(4, 3, 8, 8)).shape == (4, features)
    assert through(parts, torch.randn(4, 3, 8, 8)).shape == (4, 5)


def test_convolutions_start_with_fan_out_and_norms_with_1_and_0():
    torch.manual_seed(0)
    parts = build_parts(c.Encoder(width=32), 3, ONE_SHARD)
    weight = parts["block3"][1].conv1.weight
    assert weight.std().item() == pytest.approx((2 / (weight.shape[0] * 9)) ** 0.5, rel=0.02)
    assert all((norm.weight == 1).all() and (norm.bias == 0).all() for norm in norms_of(parts))


def test_heads_are_linear_norm_relu_linear(rng):
    head = mlp(6, c.Head(hidden=5, out=3), lambda width: BatchNorm(width, ONE_SHARD)).double()
    x = torch.randn(4, 6, generator=rng, dtype=torch.float64)
    h = x @ head[0].weight.T + head[0].bias
    h = (h - h.mean(0)) / (h.var(0, correction=0) + 1e-5).sqrt() * head[1].weight + head[1].bias
    torch.testing.assert_close(
        through(head, x), h.clamp(min=0) @ head[3].weight.T + head[3].bias, rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("tap", [None, "conv1", "block2", "block4", "fc1", "fc2"])
def test_a_student_hands_over_what_its_tap_names(tap):
    torch.manual_seed(0)
    parts = build_parts(c.Encoder(width=4, projector=c.Head(hidden=8, out=4)), 3, ONE_SHARD).eval()
    predictor = mlp(4, c.Head(hidden=8, out=4), lambda width: BatchNorm(width, ONE_SHARD)).eval()
    x = torch.randn(4, 3, 8, 8)
    output = Student(parts, predictor, tap)(x, ONE_SHARD.layout())
    projection = run_parts(parts, x)
    assert torch.equal(output.projection, projection) and torch.equal(output.prediction, predictor(projection))
    assert torch.equal(
        output.tapped,
        x if tap is None else run_parts(nn.ModuleDict({n: parts[n] for n in c.PARTS[: c.PARTS.index(tap) + 1]}), x),
    )
    assert output.projection.requires_grad and not output.tapped.requires_grad


def test_a_student_without_a_predictor_predicts_its_projection():
    parts = build_parts(c.Encoder(width=4, projector=c.Head(hidden=8, out=4)), 3, ONE_SHARD)
    output = Student(parts, None, None)(torch.randn(4, 3, 8, 8), ONE_SHARD.layout())
    assert output.prediction is output.projection


def plain_norm(x: Tensor, norm: Norm, training: bool) -> Tensor:
    dims = [d for d in range(x.ndim) if d != 1]
    mean, var = (x.mean(dims), x.var(dims, correction=0)) if training else (norm.running_mean, norm.running_var)
    mean, var, weight, bias = (t.view(1, -1, *[1] * (x.ndim - 2)) for t in (mean, var, norm.weight, norm.bias))
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias


def plain_wide_resnet(parts: nn.ModuleDict, x: Tensor, training: bool) -> Tensor:
    """Zagoruyko and Komodakis 2016, fig. 1 (d) and table 1, with FixMatch's leaky ReLU: features of images."""

    def active(x: Tensor, norm: Norm) -> Tensor:
        return F.leaky_relu(plain_norm(x, norm, training), 0.1)

    x = F.conv2d(x, parts["conv1"][0].weight, padding=1)
    for group, stride in (("block1", 1), ("block2", 2), ("block3", 2)):
        for index in range(4):
            block = parts[group][index]
            step = stride if index == 0 else 1
            before = active(x, block.bn1)
            inner = active(F.conv2d(before, block.conv1.weight, stride=step, padding=1), block.bn2)
            residue = F.conv2d(inner, block.conv2.weight, padding=1)
            x = residue + (F.conv2d(before, block.shortcut.weight, stride=step) if index == 0 else x)
    return active(x, parts["block3"][4]).mean((2, 3))


@pytest.mark.parametrize("training", [True, False])
def test_a_wide_resnet_equals_one_written_plainly(rng, training):
    torch.manual_seed(0)
    parts = disturbed(
        build_parts(c.Encoder(name="wrn28-2", width=4, projector=c.Head(hidden=8, out=4)), 3, ONE_SHARD)
    ).train(training)
    x = torch.randn(4, 3, 8, 8, generator=rng, dtype=torch.float64)
    found = through(backbone_of(parts), x)
    assert found.shape == (4, 32) and feature_width(parts) == 32
    torch.testing.assert_close(found, plain_wide_resnet(parts, x, training), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("name", "features"), [("wrn28-2", 128), ("wrn28-8", 512)])
def test_a_wide_resnet_has_28_layers_in_five_parts(name, features):
    """1.5 million parameters in WRN-28-2, as FixMatch says, the classifier's 1,290 aside."""
    with torch.device("meta"):
        parts = build_parts(c.Encoder(name=name), 3, ONE_SHARD)
    assert list(parts) == ["conv1", "block1", "block2", "block3", "fc1", "fc2"] == list(c.Encoder(name=name).parts)
    shapes = [tuple(p.shape) for p in backbone_of(parts).parameters() if p.ndim > 1]
    assert sum(shape[2] == 3 for shape in shapes) == 25 and sum(shape[2] == 1 for shape in shapes) == 3
    assert feature_width(parts) == features
    if name == "wrn28-2":
        assert sum(p.numel() for p in backbone_of(parts).parameters()) == 1_467_610 - 1_290


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "wrn28-2"])
@pytest.mark.parametrize("kind", ["pooled", "map"])
@pytest.mark.parametrize("training", [True, False])
def test_norms_of_the_features_and_of_the_output(rng, name, kind, training):
    """BN1 behind the pooling or in front of it, the last thing of the backbone; BN2 behind the projector."""
    torch.manual_seed(0)
    encoder = c.Encoder(name=name, width=4, projector=c.Head(hidden=8, out=4), feature_norm=kind, output_norm=True)
    parts = disturbed(build_parts(encoder, 3, ONE_SHARD)).train(training)
    x = torch.randn(4, 3, 8, 8, generator=rng, dtype=torch.float64)
    *before, last = backbone_of(parts)
    *blocks, a, b, d = parts[last]
    (norm,) = (module for module in (a, b, d) if isinstance(module, Norm))
    with torch.no_grad():
        maps = through(nn.Sequential(*(parts[part] for part in before), *blocks), x)
        features = (
            plain_norm(maps.mean((2, 3)), norm, training)
            if kind == "pooled"
            else plain_norm(maps, norm, training).mean((2, 3))
        )
        torch.testing.assert_close(through(backbone_of(parts), x), features, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(through(backbone_of(parts, False), x), maps.mean((2, 3)), rtol=1e-9, atol=1e-10)
        linear, output_norm = parts["fc2"]
        projection = plain_norm(linear(through(parts["fc1"], features)), output_norm, training)
        torch.testing.assert_close(through(parts, x), projection, rtol=1e-9, atol=1e-10)
    plain = build_parts(c.Encoder(name=name, width=4, projector=c.Head(hidden=8, out=4)), 3, ONE_SHARD)
    assert len(norms_of(parts)) == len(norms_of(plain)) + 2
