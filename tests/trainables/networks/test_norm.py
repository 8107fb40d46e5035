"""Plain batch norm per shard, against torch's own; what all norms have in common."""

from dataclasses import FrozenInstanceError

import pytest
import torch
from torch import nn

from tests.trainables.layouts import through
from trainables.config import norms as config
from trainables.config.encoder import StudentNorm
from trainables.config.teacher import TeacherNorm
from trainables.networks.group import Group
from trainables.networks.norm_kinds import KINDS, convert
from trainables.networks.norms.base import NoLayout, Norm, Shards, begin, commit, norms_of
from trainables.networks.norms.batch import BatchNorm
from trainables.networks.norms.eman import EmanNorm
from trainables.networks.norms.momentum import MomentumNorm

SHAPES = {"1d": (), "2d": (5, 3)}
WITH_BATCH_STATISTICS = sorted(kind for kind, norm in KINDS.items() if norm.BATCH_STATISTICS)


def images(views: int, shards: int, size: int, shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """A batch [views * shards * size, 4, ...] in float64, with statistics that differ from channel to channel."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(views * shards * size, 4, *shape, generator=generator, dtype=torch.float64)
    scale = torch.tensor([0.1, 1.0, 3.0, 10.0], dtype=torch.float64).view(4, *[1] * len(shape))
    return x * scale + 2 * scale


def ready(norm: Norm, seed: int = 5) -> Norm:
    """In float64, with weights and statistics that are not the initial ones."""
    generator = torch.Generator().manual_seed(seed)
    norm.double()
    for tensor in norm.state_dict().values():
        tensor.copy_(torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype) + 0.5)
    return norm


def torch_norm(norm: Norm, shape: tuple[int, ...]) -> nn.Module:
    twin = (nn.BatchNorm2d if shape else nn.BatchNorm1d)(4).double()
    twin.load_state_dict({**norm.state_dict(), "num_batches_tracked": torch.tensor(0)})
    return twin


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_one_shard_equals_torch_over_several_steps_of_two_views(shape):
    norm = ready(BatchNorm(4, Shards(8, 1, range(1))))
    twin = torch_norm(norm, shape)
    for step in range(3):
        ours, theirs = (images(2, 1, 8, shape, seed=step).requires_grad_() for _ in range(2))
        begin([norm], 0.0)
        found, expected = through(norm, ours), torch.cat([twin(view) for view in theirs.chunk(2)])
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        weight = images(2, 1, 8, shape, seed=step + 10)
        found_grads = torch.autograd.grad((found * weight).sum(), [ours, norm.weight, norm.bias])
        expected_grads = torch.autograd.grad((expected * weight).sum(), [theirs, twin.weight, twin.bias])
        torch.testing.assert_close(found_grads, expected_grads, rtol=1e-10, atol=1e-12)
        commit([norm], Group())
        torch.testing.assert_close(norm.running_mean, twin.running_mean, rtol=1e-12, atol=0)
        torch.testing.assert_close(norm.running_var, twin.running_var, rtol=1e-12, atol=0)
    norm.eval(), twin.eval()
    torch.testing.assert_close(norm(ours), twin(ours), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_each_shard_has_a_batch_norm_of_its_own(shape):
    norm = ready(BatchNorm(4, Shards(6, 3, range(3))))
    ours, theirs = (images(2, 3, 6, shape).requires_grad_() for _ in range(2))
    twins = [torch_norm(norm, shape) for _ in range(3)]
    found = through(norm, ours)
    expected = torch.cat([twins[i % 3](shard) for i, shard in enumerate(theirs.split(6))])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    (ours_grad,), (theirs_grad,) = (
        torch.autograd.grad(found.square().sum(), [ours]),
        torch.autograd.grad(expected.square().sum(), [theirs]),
    )
    torch.testing.assert_close(ours_grad, theirs_grad, rtol=1e-9, atol=1e-9)
    commit([norm], Group())
    for name in (
        "running_mean",
        "running_var",
    ):  # each twin's own average moved by the same share, so their mean is the average of the mean
        torch.testing.assert_close(
            getattr(norm, name), torch.stack([getattr(twin, name) for twin in twins]).mean(0), rtol=1e-12, atol=0
        )


@pytest.mark.parametrize("kind", ["batch", "momentum"])
def test_shards_in_passes_equal_shards_in_one(kind):
    """One after another, all at once, or dealt to workers: the same outputs and the same buffers."""
    x = images(2, 3, 4, (2, 2)).unflatten(0, (2, 3, 4))
    shards = Shards(4, 3, range(3))
    together, apart = (ready(KINDS[kind](4, shards)) for _ in range(2))
    begin([together, apart], 0.3)
    whole = through(together, x.flatten(0, 2)).unflatten(0, (2, 3, 4))
    for shard in range(3):
        found = through(apart, x[:, shard].flatten(0, 1), shards.layout(range(shard, shard + 1)))
        torch.testing.assert_close(found, whole[:, shard].flatten(0, 1), rtol=1e-12, atol=1e-12)
    commit([together], Group())
    commit([apart], Group())
    torch.testing.assert_close(apart.state_dict(), together.state_dict(), rtol=1e-12, atol=1e-12)


def test_layers_of_unlike_width_are_committed_together():
    shards = Shards(8, 1, range(1))
    norms = [ready(BatchNorm(4, shards)), ready(BatchNorm(2, shards))]
    twins = [torch_norm(norms[0], ()), nn.BatchNorm1d(2).double()]
    twins[1].load_state_dict({**norms[1].state_dict(), "num_batches_tracked": torch.tensor(0)})
    x = images(1, 1, 8, ())
    for norm, twin, width in zip(norms, twins, (4, 2), strict=True):
        through(norm, x[:, :width]), twin(x[:, :width])
    commit(norms, Group())
    for norm, twin in zip(norms, twins, strict=True):
        torch.testing.assert_close(norm.running_mean, twin.running_mean, rtol=1e-12, atol=0)
        torch.testing.assert_close(norm.running_var, twin.running_var, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_forward_changes_no_buffer_and_an_evaluation_leaves_nothing_pending(kind):
    norm = ready(KINDS[kind](4, Shards(8, 1, range(1))))
    before = {name: tensor.clone() for name, tensor in norm.state_dict().items()}
    begin([norm], 0.7)
    through(norm, images(2, 1, 8, ()))
    keeps = kind in WITH_BATCH_STATISTICS and kind != "eman"
    assert len(norm.pending) == (1 if keeps else 0)
    held = list(norm.pending)
    norm.eval()(images(3, 1, 5, (), seed=3))
    assert all(a is b for a, b in zip(norm.pending, held, strict=True))
    assert norm.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in norm.state_dict().items())
    norm.train()
    commit([norm], Group())
    assert norm.pending == []
    moved = any(not torch.equal(tensor, before[name]) for name, tensor in norm.state_dict().items())
    assert moved == keeps


@pytest.mark.parametrize("kind", ["batch", "momentum"])
def test_what_an_aborted_step_left_pending_is_dropped(kind):
    clean, aborted = (ready(KINDS[kind](4, Shards(8, 1, range(1)))) for _ in range(2))
    begin([aborted], 0.5)
    through(aborted, images(2, 1, 8, (), seed=9))
    for norm in (clean, aborted):
        begin([norm], 0.5)
        through(norm, images(2, 1, 8, (), seed=1))
        commit([norm], Group())
    assert all(
        torch.equal(a, b) for a, b in zip(clean.state_dict().values(), aborted.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("kind", ["batch", "momentum"])
def test_a_batch_that_is_no_multiple_of_the_shards_is_refused(kind):
    norm = KINDS[kind](4, Shards(4, 3, range(2)))
    with pytest.raises(ValueError, match="batch of 12 is no multiple of 2 shards of 4"):
        through(norm, torch.randn(12, 4))


@pytest.mark.parametrize("kind", KINDS)
def test_convert_keeps_weights_and_running_statistics(kind):
    shards = Shards(8, 1, range(1))
    module = nn.Sequential(nn.Linear(3, 4), nn.Sequential(ready(BatchNorm(4, shards)), nn.ReLU()))
    converted = convert(module, kind)
    assert [type(norm) for norm in norms_of(converted)] == [KINDS[kind]]
    own, given = converted.state_dict(), module.state_dict()
    weights, statistics = (
        {f"1.0.{name}" for name in names.split()} for names in ("weight bias", "running_mean running_var")
    )
    lost = {"none": weights | statistics, "layer": statistics, "group": statistics, "momentum": statistics}
    assert {name for name in given if name not in own} == lost.get(kind, set())
    assert all(torch.equal(tensor, given[name]) for name, tensor in own.items() if name in given)
    assert not {p.data_ptr() for p in converted.parameters()} & {p.data_ptr() for p in module.parameters()}
    assert [type(norm) for norm in norms_of(module)] == [BatchNorm] and norms_of(converted)[0].shards is shards


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_keeps_statistics_in_single(kind):
    norm = KINDS[kind](4, Shards(64, 1, range(1)))
    x = images(1, 1, 64, (4, 4)).float()
    begin([norm], 1.0)
    with torch.no_grad():
        full, half = through(norm, x), through(norm, x.bfloat16())
    assert half.dtype == torch.bfloat16 and all(tensor.dtype == torch.float32 for tensor in norm.state_dict().values())
    torch.testing.assert_close(half.float(), full, rtol=0.02, atol=0.05)
    for pending in norm.pending:
        assert pending.views.dtype == torch.float32
        torch.testing.assert_close(pending.views[1], pending.views[0], rtol=0.02, atol=0.05)


def test_channels_last_has_the_same_numbers():
    x = images(2, 2, 8, (6, 6))
    for kind in ("batch", "momentum"):
        norm = ready(KINDS[kind](4, Shards(8, 2, range(2))))
        begin([norm], 0.4)
        last = x.contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(through(norm, last), through(norm, x), rtol=1e-12, atol=1e-12)


def test_invariant_25_an_eman_output_depends_on_its_own_sample_alone():
    """Fails when EMAN is plain batch norm."""
    first, second = images(1, 1, 8, (3, 3)), images(1, 1, 8, (3, 3), seed=1)
    second[2] = first[2]
    eman, plain = (ready(cls(4, Shards(8, 1, range(1)))) for cls in (EmanNorm, BatchNorm))
    assert torch.equal(eman(first)[2], eman(second)[2])  # needs no layout
    assert not torch.allclose(through(plain, first)[2], through(plain, second)[2])


def test_invariant_28_eman_takes_a_batch_of_one():
    """Fails when EMAN is plain batch norm."""
    norm = ready(EmanNorm(4, Shards(8, 1, range(1))))
    x = images(1, 1, 1, ())
    expected = (x - norm.running_mean) / (norm.running_var + 1e-5).sqrt() * norm.weight + norm.bias
    torch.testing.assert_close(norm(x), expected, rtol=1e-12, atol=1e-12)


def test_invariant_29_an_eman_forward_never_changes_its_buffers():
    """Fails when the forward is torch's in training mode."""
    norm = ready(EmanNorm(4, Shards(8, 1, range(1))))
    before = {name: tensor.clone() for name, tensor in norm.state_dict().items()}
    begin([norm], 1.0)
    norm(images(2, 1, 8, ()))
    commit([norm], Group())
    assert all(torch.equal(tensor, before[name]) for name, tensor in norm.state_dict().items())


def test_momentum_norm_has_no_running_statistics_of_its_own():
    assert set(MomentumNorm(4, Shards(8, 3, range(3))).state_dict()) == {"weight", "bias", "history"}


@pytest.mark.parametrize("kind", sorted(set(WITH_BATCH_STATISTICS) - {"eman"}))
def test_a_training_forward_outside_of_a_layout_is_refused(kind):
    """And so is one behind a layout that has ended, even by an error: no forward reads the layout of an earlier one."""
    norm, x = ready(KINDS[kind](4, Shards(8, 1, range(1)))), images(2, 1, 8, ())
    with pytest.raises(NoLayout, match="must know the shards of its batch"):
        norm(x)
    through(norm, x)
    with pytest.raises(ValueError, match="batch of 16 is no multiple of 1 shards of 5"):
        through(norm, x, norm.shards.layout(samples=5))
    with pytest.raises(NoLayout):
        norm(x)
    norm.eval()(x)


def test_shards_and_layouts_do_not_change():
    shards = Shards(8, 2, range(2))
    for thing, name in ((shards, "mine"), (shards.layout(), "shards"), (shards.layout(), "samples")):
        with pytest.raises(FrozenInstanceError):
            setattr(thing, name, range(1))


def test_what_a_configuration_says_of_a_norm_is_what_its_file_says():
    """The configuration reads the files without importing them, because they import torch."""
    assert set(config.NORMS) == set(KINDS)
    assert set(config.STUDENT_NORMS) == {kind for kind, norm in KINDS.items() if norm.OF_STUDENT}
    assert set(config.TEACHER_NORMS) == set(WITH_BATCH_STATISTICS)
    for section, kinds in ((StudentNorm, config.STUDENT_NORMS), (TeacherNorm, config.TEACHER_NORMS)):
        for kind in kinds:
            options = section(kind=kind)
            assert options.looks_at_the_batch == KINDS[kind].WHOLE_BATCH
            assert options.batch_statistics == KINDS[kind].BATCH_STATISTICS
