"""Momentum BN with a gradient, for students; and the control that is not lazy. All against the formulas in float64."""

import pytest
import torch
from torch import Tensor

from tests.trainables.layouts import through
from trainables.config.encoder import StudentNorm
from trainables.config.teacher import TeacherNorm
from trainables.networks.group import Group
from trainables.networks.norm_kinds import factory
from trainables.networks.norms.base import Shards, begin, commit, laid_out
from trainables.networks.norms.batch import BatchNorm
from trainables.networks.norms.momentum import MomentumNorm

SIZE, CHANNELS, TOTAL = 4, 3, 2
SHAPES = {"1d": (), "2d": (5, 3)}
any_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
CORRECTIONS = {"biased": 0, "unbiased": 1, "released": 2}


def batch(views: int, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """[views, shards, samples, C, ...], each view, shard and channel with statistics of its own."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(views, TOTAL, SIZE, CHANNELS, *shape, generator=generator, dtype=torch.float64)
    apart = torch.randn(views, TOTAL, 1, CHANNELS, *[1] * len(shape), generator=generator, dtype=torch.float64)
    return x * (1 + apart.abs()) + 2 * apart


def student_norm(**options: object) -> MomentumNorm:
    """With a history and weights that are not the initial ones."""
    norm = factory(StudentNorm(kind="momentum", **options), Shards(SIZE, TOTAL, range(TOTAL)))(CHANNELS).double()
    assert isinstance(norm, MomentumNorm)
    generator = torch.Generator().manual_seed(1)
    for tensor in norm.state_dict().values():
        tensor.copy_(torch.rand(tensor.shape, generator=generator, dtype=torch.float64) * 2 + 0.5)
    return norm


def plain_step(norm: MomentumNorm, alpha: float, x: Tensor, lazy: bool, variance: str) -> tuple[Tensor, Tensor]:
    """The formulas, shard by shard: the outputs, with autograd's gradient, and the history after the step."""
    outputs, rows = torch.empty_like(x), []
    shape = (-1, *[1] * (x.ndim - 4))
    views, shards = x.shape[:2]
    pieces: list[list[Tensor]] = [[] for _ in range(views)]
    for shard in range(shards):
        history, moved = norm.history[shard].clone(), []
        seen = history
        for view in range(views):
            own = x[view, shard]
            dims = [d for d in range(own.ndim) if d != 1]
            count = own.numel() // CHANNELS
            mean = own.mean(dims)
            var = (own - mean.view(shape)).square().mean(dims) * (count / (count - 1)) ** CORRECTIONS[variance]
            blended = alpha * torch.stack([mean, var]) + (1 - alpha) * seen
            m, v, weight, bias = (t.view(shape) for t in (*blended, norm.weight, norm.bias))
            pieces[view].append((own - m) / (v + 1e-5).sqrt() * weight + bias)
            moved.append(blended.detach())
            if not lazy:
                seen = blended.detach()
        rows.append(torch.stack(moved).mean(0) if lazy else moved[-1])
    outputs = torch.stack([torch.stack(piece) for piece in pieces])
    return outputs, torch.stack(rows)


@any_shape
@pytest.mark.parametrize("lazy", [True, False])
@pytest.mark.parametrize("variance", CORRECTIONS)
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_outputs_gradients_and_history_are_those_of_the_formula(shape, lazy, variance, alpha):
    """The gradient passes through the batch's statistics with the factor alpha; the history is a constant."""
    norm, twin = (student_norm(lazy=lazy, variance=variance) for _ in range(2))
    for step in range(2):
        ours, theirs = (batch(2, shape, seed=step).requires_grad_() for _ in range(2))
        weight = batch(2, shape, seed=step + 10)
        expected, history = plain_step(twin, alpha, theirs, lazy, variance)
        before = norm.history.clone()
        begin([norm], alpha)
        found = through(norm, ours.flatten(0, 2)).view_as(ours)
        assert torch.equal(norm.history, before)
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
        found_gradients = torch.autograd.grad((found * weight).sum(), [ours, norm.weight, norm.bias])
        gradients = torch.autograd.grad((expected * weight).sum(), [theirs, twin.weight, twin.bias])
        torch.testing.assert_close(found_gradients, gradients, rtol=1e-9, atol=1e-10)
        commit([norm], Group())
        twin.history.copy_(history)
        torch.testing.assert_close(norm.history, history, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("lazy", [True, False])
def test_the_gradient_against_differences(lazy):
    norm, x = student_norm(lazy=lazy), batch(1, (2, 1)).flatten(0, 2).requires_grad_()
    begin([norm], 0.4)

    def forward(*given: Tensor) -> Tensor:
        norm.pending.clear()
        with laid_out([norm], norm.shards.layout()):
            return torch.func.functional_call(norm, {"weight": given[1], "bias": given[2]}, (given[0],))

    assert torch.autograd.gradcheck(forward, (x, norm.weight, norm.bias))


@any_shape
@pytest.mark.parametrize("lazy", [True, False])
def test_alpha_1_is_batch_norm_with_its_gradient(shape, lazy):
    norm = student_norm(lazy=lazy)
    plain = BatchNorm(CHANNELS, norm.shards).double()
    plain.load_state_dict({"weight": norm.weight, "bias": norm.bias}, strict=False)
    ours, theirs = (batch(2, shape).flatten(0, 2).requires_grad_() for _ in range(2))
    begin([norm, plain], 1.0)
    outputs = through(norm, ours), through(plain, theirs)
    torch.testing.assert_close(*outputs, rtol=1e-12, atol=1e-12)
    weight = batch(2, shape, seed=3).flatten(0, 2)
    gradients = [torch.autograd.grad((y * weight).sum(), [x])[0] for y, x in zip(outputs, (ours, theirs), strict=True)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-11)


def test_alpha_0_is_a_fixed_map_of_each_sample_with_its_gradient():
    """As in an evaluation: the output of a sample does not move with the others."""
    norm, x = student_norm(), batch(1, ()).flatten(0, 2).requires_grad_()
    begin([norm], 0.0)
    (gradient,) = torch.autograd.grad(through(norm, x)[0].sum(), [x])
    assert gradient[0].abs().min() > 0 and not gradient[1:].any()
    scale = norm.weight / (norm.history[0, 1] + 1e-5).sqrt()
    torch.testing.assert_close(gradient[0], scale, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_memory_formats_and_precisions_have_the_same_gradient(layout):
    norm = student_norm()
    begin([norm], 0.3)
    weight = batch(1, (4, 4), seed=2).flatten(0, 2)
    gradients = []
    for dtype, memory in ((torch.float64, torch.contiguous_format), (torch.float64, layout), (torch.bfloat16, layout)):
        x = batch(1, (4, 4)).flatten(0, 2).to(dtype).contiguous(memory_format=memory).requires_grad_()
        norm.to(torch.float32 if dtype == torch.bfloat16 else dtype)
        output = through(norm, x)
        gradients += torch.autograd.grad((output * weight.to(dtype)).sum(), [x])
        assert output.dtype == gradients[-1].dtype == dtype and norm.pending[-1].views.dtype == norm.history.dtype
        norm.pending.clear()
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-11, atol=1e-11)
    assert (gradients[2].double() - gradients[0]).abs().max() < 0.05 * gradients[0].abs().max()


def two_views(first_seed: int, lazy: bool, apart: bool = False) -> list[Tensor]:
    """Outputs of two views, whose second is always the same; in one forward or in two."""
    norm = student_norm(lazy=lazy)
    first, second = batch(1, (4, 4), seed=first_seed)[0], batch(1, (4, 4), seed=7)[0]
    begin([norm], 0.3)
    if apart:
        return [through(norm, view.flatten(0, 1)).detach() for view in (first, second)]
    return list(through(norm, torch.cat([first, second]).flatten(0, 1)).detach().chunk(2))


@pytest.mark.parametrize("apart", [True, False])
def test_invariant_13_holds_of_the_lazy_student_alone_and_14_of_its_control(apart):
    """A second view depends on the first where the history moves view by view; the first never on the second."""
    # Fails when the key has no effect.
    lazy, eager = ([two_views(seed, kind, apart) for seed in (1, 2)] for kind in (True, False))
    assert torch.equal(lazy[0][1], lazy[1][1])
    assert not torch.allclose(eager[0][1], eager[1][1])
    assert torch.equal(eager[0][0], lazy[0][0])


def test_invariant_14_of_the_teachers_control():
    """The same norm, with the options of a teacher."""
    seen = []
    for first in (1, 2):
        norm = student_norm()
        norm.configure(TeacherNorm(kind="momentum", lazy=False))
        begin([norm], 0.3)
        with torch.no_grad():
            seen.append(
                through(norm, torch.cat([batch(1, (), seed=s)[0] for s in (first, 7)]).flatten(0, 1)).chunk(2)[1]
            )
    assert not torch.allclose(*seen)


def test_the_controls_forwards_apart_are_one_forward():
    """Also where the shards of a view go through one by one, before those of the other view."""
    x, shards = batch(3, (2, 2)), student_norm().shards
    together, apart = (student_norm(lazy=False) for _ in range(2))
    begin([together, apart], 0.3)
    whole = through(together, x.flatten(0, 2)).view_as(x)
    for shard in range(TOTAL):
        layout = shards.layout(range(shard, shard + 1))
        found = [through(apart, x[:2, shard].flatten(0, 1), layout), through(apart, x[2, shard], layout)]
        torch.testing.assert_close(torch.cat(found).view_as(x[:, shard]), whole[:, shard], rtol=1e-12, atol=1e-12)
    for norm in (together, apart):
        commit([norm], Group())
    torch.testing.assert_close(apart.history, together.history, rtol=1e-12, atol=1e-12)


def test_a_shared_history_corrects_each_view_by_its_own_number():
    """Local views are smaller: their variances are corrected by fewer positions."""
    norm = student_norm(history="shared", variance="unbiased")
    norm.history.copy_(norm.history[:1].expand_as(norm.history).clone())
    before, views = norm.history[0].clone(), [batch(1, side)[0] for side in ((4, 4), (2, 2))]
    begin([norm], 0.4)
    for view in views:
        through(norm, view.flatten(0, 1))
    commit([norm], Group())
    whole = [view.flatten(0, 1).transpose(0, 1).flatten(1) for view in views]  # [C, numbers of the whole batch]
    targets = torch.stack([torch.stack([one.mean(1), one.var(1)]) for one in whole])
    for row in norm.history:
        torch.testing.assert_close(row, 0.6 * before + 0.4 * targets.mean(0), rtol=1e-11, atol=1e-11)
