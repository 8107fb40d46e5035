"""Norms of single samples, layer, group and none, against the plain formula in float64; and encoders made of them."""

import pytest
import torch
from torch import Tensor, nn

from tests.trainables.layouts import through
from tests.trainables.teachers import LAYOUT, SHARDS, TOTAL
from trainables.config import trial as c
from trainables.config.encoder import StudentNorm
from trainables.learning.teacher import Teacher
from trainables.networks.encoders import backbone_of, build_parts, plain, run_parts, unlike_torchvision
from trainables.networks.norm_kinds import KINDS, factory
from trainables.networks.norms.base import Norm, Shards, norms_of
from trainables.networks.norms.base_sample import SampleNorm

KINDS_OF_SAMPLES = [kind for kind, norm in KINDS.items() if not norm.BATCH_STATISTICS]
SHAPES = {"1d": (), "2d": (5, 3)}
any_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
any_kind = pytest.mark.parametrize("kind", KINDS_OF_SAMPLES)


def norm_of(kind: str, channels: int, groups: int = 32) -> Norm:
    """In float64, with weights that are not the initial ones."""
    norm = factory(StudentNorm(kind=kind, groups=groups), SHARDS)(channels).double()
    generator = torch.Generator().manual_seed(5)
    for tensor in norm.state_dict().values():
        tensor.copy_(torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype) + 0.5)
    return norm


def batch(channels: int, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(8, channels, *shape, generator=generator, dtype=torch.float64)
    return x * torch.arange(1.0, channels + 1, dtype=torch.float64).view(-1, *[1] * len(shape)) + 3


def by_hand(x: Tensor, norm: Norm, groups: int) -> Tensor:
    """Each sample and each group of channels by itself."""
    rows = []
    for sample in x:
        pieces = []
        for group in sample.chunk(groups):
            mean = group.sum() / group.numel()
            var = (group - mean).square().sum() / group.numel()
            pieces.append((group - mean) / (var + 1e-5).sqrt())
        shape = (-1, *[1] * (sample.ndim - 1))
        rows.append(torch.cat(pieces) * norm.weight.view(shape) + norm.bias.view(shape))
    return torch.stack(rows)


def test_the_kinds_are_these() -> None:
    assert KINDS_OF_SAMPLES == ["group", "layer", "none"]


@any_shape
@pytest.mark.parametrize(
    ("kind", "channels", "asked", "groups"),
    [("layer", 12, 32, (1, 1)), ("group", 12, 32, (1, 6)), ("group", 48, 4, (4, 4)), ("group", 48, 7, (6, 6))],
)
def test_outputs_and_gradients_are_those_of_the_formula(shape, kind, channels, asked, groups):
    """With the number of groups of vectors, and of maps."""
    norm = norm_of(kind, channels, asked)
    ours, theirs = (batch(channels, shape).requires_grad_() for _ in range(2))
    weight = batch(channels, shape, seed=1)
    found, expected = norm(ours), by_hand(theirs, norm, groups[bool(shape)])
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    found_gradients = torch.autograd.grad((found * weight).sum(), [ours, norm.weight, norm.bias])
    gradients = torch.autograd.grad((expected * weight).sum(), [theirs, norm.weight, norm.bias])
    torch.testing.assert_close(found_gradients, gradients, rtol=1e-9, atol=1e-10)


def test_a_layer_norm_of_vectors_is_torchs():
    norm, x = norm_of("layer", 6), batch(6, ())
    expected = nn.functional.layer_norm(x, (6,), norm.weight, norm.bias, 1e-5)
    torch.testing.assert_close(norm(x), expected, rtol=1e-12, atol=1e-12)


@any_shape
def test_none_is_the_identity_without_weights(shape):
    norm, x = norm_of("none", 4), batch(4, shape)
    assert norm(x) is x and not list(norm.parameters())


@pytest.mark.parametrize(
    ("channels", "asked", "groups"),
    [
        (64, 32, (32, 32, 8)),
        (256, 32, (32, 32, 32)),
        (16, 32, (8, 8, 2)),
        (4, 32, (2, 2, 1)),
        (12, 5, (4, 4, 1)),
        (7, 32, (1, 1, 1)),
        (1, 32, (1, 1, 1)),
    ],
)
def test_groups_divide_the_channels_and_are_not_too_small(channels, asked, groups):
    """Of maps of 16 positions, of 4, and of one, as vectors have."""
    norm = norm_of("group", channels, asked)
    for shape, count in zip(((4, 4), (2, 2), ()), groups, strict=True):
        x = batch(channels, shape)
        torch.testing.assert_close(norm(x), by_hand(x, norm, count), rtol=1e-10, atol=1e-10)
    x = batch(channels, ())
    torch.testing.assert_close(norm(x[:, :, None, None]), norm(x)[:, :, None, None], rtol=1e-12, atol=1e-12)


@any_shape
@any_kind
def test_a_sample_does_not_depend_on_the_others_nor_on_the_mode(shape, kind):
    norm, x, other = norm_of(kind, 4), batch(4, shape), batch(4, shape, seed=1)
    other[3] = x[3]
    assert torch.equal(norm(x)[3], norm(other)[3])  # in training mode, without a layout
    assert torch.equal(norm(x), norm.eval()(x))
    assert not list(norm.buffers()) and norm.pending == []


@any_shape
@any_kind
def test_what_is_exported_computes_the_same_and_shares_no_tensor(shape, kind):
    norm, x = norm_of(kind, 4, groups=2), batch(4, shape)
    exported = norm.plain()
    torch.testing.assert_close(exported(x), norm(x), rtol=1e-12, atol=1e-12)
    assert not {p.data_ptr() for p in exported.parameters()} & {p.data_ptr() for p in norm.parameters()}


def parts_of(kind: str, **values: object) -> nn.ModuleDict:
    torch.manual_seed(0)
    values = {"width": 4, "projector": {"hidden": 8, "out": 4}, **values}
    return build_parts(c.Encoder(norm={"kind": kind, "groups": 2}, **values), 3, SHARDS).double().train()


@pytest.mark.parametrize("name", ["resnet10", "wrn28-2"])
@pytest.mark.parametrize("feature_norm", ["none", "pooled", "map"])
@any_kind
def test_encoders_have_the_kind_throughout(kind, name, feature_norm, rng):
    """Blocks, feature norm, projector and output norm; the samples of a batch stay apart, and so do its shards."""
    head = {"hidden": 8, "out": 4, "norm": "all"}
    parts = parts_of(kind, name=name, feature_norm=feature_norm, output_norm=True, projector=head)
    assert {type(norm) for norm in norms_of(parts)} == {KINDS[kind]}
    x = torch.randn(4, 3, 8, 8, generator=rng, dtype=torch.float64)
    whole = run_parts(parts, x)
    assert whole.shape == (4, 4) and whole.isfinite().all() and whole.std(0).max() > 1e-6
    torch.testing.assert_close(torch.cat([run_parts(parts, one) for one in x.split(1)]), whole, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(run_parts(parts.eval(), x), whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(run_parts(plain(parts), x), whole, rtol=1e-12, atol=1e-12)
    if feature_norm != "none":
        without = run_parts(backbone_of(parts, feature_norm=False), x)
        (norm,) = [one for one in parts[list(backbone_of(parts))[-1]].children() if isinstance(one, SampleNorm)][-1:]
        if feature_norm == "pooled":
            torch.testing.assert_close(run_parts(backbone_of(parts), x), norm(without), rtol=1e-12, atol=1e-12)


@any_kind
def test_the_teacher_has_the_students_kind_with_averaged_weights(kind, rng):
    parts = parts_of(kind)
    teacher = Teacher(c.Teacher(momentum=0.75), parts, seed=0).train()
    assert {type(norm) for norm in norms_of(teacher)} == {KINDS[kind]} and teacher.norm_pairs == []
    x = torch.randn(4, 3, 8, 8, generator=rng, dtype=torch.float64)
    torch.testing.assert_close(teacher(x, LAYOUT), through(parts, x), rtol=1e-12, atol=1e-12)
    before = {name: p.clone() for name, p in teacher.parts.named_parameters()}
    with torch.no_grad():
        for p in parts.parameters():
            p += 1
    teacher.update(0, TOTAL)
    for name, p in teacher.parts.named_parameters():
        torch.testing.assert_close(p, before[name] + 0.25, rtol=1e-12, atol=1e-12)
    assert torch.equal(
        torch.stack([run_parts(teacher.parts, one[None]) for one in x]).squeeze(1)[0], teacher(x[:1], LAYOUT)[0]
    )


@any_kind
def test_torchvisions_resnets_have_no_such_norm(kind):
    assert unlike_torchvision(c.Encoder(norm=kind)) == (
        f"encoder.norm.kind = {kind}: torchvision's ResNet has batch norms"
    )
    assert unlike_torchvision(c.Encoder(norm="momentum")) is None


@pytest.mark.parametrize("shape", [(), (4, 4)], ids=SHAPES)
@any_kind
def test_half_precision_is_normalised_in_single(kind, shape):
    norm, x = factory(StudentNorm(kind=kind), Shards(8, 1, range(1)))(4), batch(4, shape).float()
    half = norm(x.bfloat16())
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, norm(x.bfloat16().float()).bfloat16())
