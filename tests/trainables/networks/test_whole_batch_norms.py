"""Norms that look at the whole batch: sync and shuffle, on one worker and on two that hold 2 and 1 of its 3 shards."""

import pytest
import torch
from torch import Tensor, nn

from tests.trainables.feeds import feed_of
from tests.trainables.layouts import through
from tests.trainables.teachers import disturb, teacher_of
from trainables.config import trial as c
from trainables.data import keyed
from trainables.learning.learner import Learner
from trainables.networks.encoders import build_parts, run_parts
from trainables.networks.group import Group
from trainables.networks.norm_kinds import convert
from trainables.networks.norms.base import Norm, Shards, batch_statistics, begin, commit, laid_out, norms_of
from trainables.networks.norms.sync import SyncNorm, merge

SIZE, TOTAL_SHARDS, CHANNELS = 4, 3, 4
SHAPES = {"1d": (), "2d": (5, 3)}
any_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def batch(views: int, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """[views, shards, samples, C, ...], each shard and channel with statistics of its own."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(views, TOTAL_SHARDS, SIZE, CHANNELS, *shape, generator=generator, dtype=torch.float64)
    ramp = torch.arange(1.0, 5, dtype=torch.float64).view(CHANNELS, *[1] * len(shape))
    return x * ramp + ramp * torch.randn(
        views, TOTAL_SHARDS, *[1] * (2 + len(shape)), generator=generator, dtype=torch.float64
    )


def shards_of(rank: int, workers: int) -> Shards:
    group = Group(rank, workers)
    return Shards(SIZE, TOTAL_SHARDS, group.share(TOTAL_SHARDS), group)


def sync_norm(shards: Shards) -> SyncNorm:
    norm = SyncNorm(CHANNELS, shards).double()
    generator = torch.Generator().manual_seed(5)
    for tensor in norm.state_dict().values():
        tensor.copy_(torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype) + 0.5)
    return norm


def part_of(x: Tensor, norm: Norm) -> Tensor:
    """A worker's share of a batch, flat."""
    mine = norm.shards.mine
    return x[:, mine.start : mine.stop].flatten(0, 2)


@any_shape
def test_invariant_23_merged_statistics_are_those_of_all_samples(shape):
    """mean = mean of means; var = mean of vars + var of means."""
    # Fails when the variance of means is left out.
    (shards,) = batch(1, shape)
    found = merge(torch.stack([torch.stack(batch_statistics(shard)) for shard in shards]))
    every = shards.flatten(0, 1).transpose(0, 1).reshape(CHANNELS, -1)
    torch.testing.assert_close(found[0], every.mean(1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found[1], (every - every.mean(1, keepdim=True)).square().mean(1), rtol=1e-12, atol=1e-12)


@any_shape
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("views", [1, 2, 3])
def test_invariant_23_sync_is_batch_norm_of_the_whole_batch_with_its_gradient(together, shape, workers, views):
    """And so are its running statistics, over two steps."""
    # Fails when the backward's sums stay on their worker, or no gradient passes through the variance.
    norms = [sync_norm(shards_of(rank, workers)) for rank in range(workers)]
    twin = (nn.BatchNorm2d if shape else nn.BatchNorm1d)(CHANNELS).double()
    twin.load_state_dict({**norms[0].state_dict(), "num_batches_tracked": torch.tensor(0)})
    for step in range(2):
        x, weight = batch(views, shape, seed=step), batch(views, shape, seed=step + 10)
        x.requires_grad_()
        expected = torch.stack([twin(view.flatten(0, 1)).view_as(view) for view in x])
        whole = torch.autograd.grad((expected * weight).sum(), [x, twin.weight, twin.bias])

        def act(norm: SyncNorm, x: Tensor = x, weight: Tensor = weight) -> tuple[Tensor, ...]:
            begin([norm], 0.0)
            own = part_of(x.detach(), norm).requires_grad_()
            with torch.no_grad():
                without = through(norm, own)
            norm.pending.pop()
            output = through(norm, own)
            assert torch.allclose(without, output, rtol=1e-12, atol=1e-12)
            found = torch.autograd.grad((output * part_of(weight, norm)).sum(), [own, norm.weight, norm.bias])
            commit([norm], norm.shards.group)
            return output.detach(), *found

        found = together([lambda norm=norm: act(norm) for norm in norms])
        for norm, (output, gradient, _, _) in zip(norms, found, strict=True):
            torch.testing.assert_close(output, part_of(expected.detach(), norm), rtol=1e-11, atol=1e-11)
            torch.testing.assert_close(gradient, part_of(whole[0], norm), rtol=1e-10, atol=1e-11)
            torch.testing.assert_close(norm.running_mean, twin.running_mean, rtol=1e-12, atol=0)
            torch.testing.assert_close(norm.running_var, twin.running_var, rtol=1e-12, atol=0)
        for index in (1, 2):  # gradients of weights are summed over the workers by the Learner
            torch.testing.assert_close(sum(one[index + 1] for one in found), whole[index], rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("shape", [(), (2, 1)], ids=SHAPES)
def test_the_gradient_of_sync_against_differences(shape):
    norm = sync_norm(shards_of(0, 1))
    x = batch(2, shape).flatten(0, 2).requires_grad_()

    def forward(*given: Tensor) -> Tensor:
        norm.pending.clear()
        with laid_out([norm], norm.shards.layout()):
            return torch.func.functional_call(norm, {"weight": given[1], "bias": given[2]}, (given[0],))

    assert torch.autograd.gradcheck(forward, (x, norm.weight, norm.bias))


def test_sync_refuses_a_part_of_its_shards():
    norm = sync_norm(shards_of(0, 1))
    with pytest.raises(ValueError, match="the shards of a worker go through it in one pass"):
        through(norm, batch(1, ())[:, 0].flatten(0, 1), norm.shards.layout(range(1)))


def test_half_precision_goes_through_sync_with_statistics_in_single():
    norm = sync_norm(shards_of(0, 1)).float()
    x = batch(2, (4, 4)).float().flatten(0, 2)
    ours, half = x.clone().requires_grad_(), x.bfloat16().requires_grad_()
    full, rounded = through(norm, ours), through(norm, half)
    assert rounded.dtype == torch.bfloat16 and norm.pending[0].views.dtype == torch.float32
    torch.testing.assert_close(rounded.float(), full, rtol=0.02, atol=0.05)
    (gradient,) = torch.autograd.grad((rounded * x.bfloat16()).sum(), [half])
    (expected,) = torch.autograd.grad((full * x).sum(), [ours])
    assert (
        gradient.dtype == torch.bfloat16
        and (gradient.float() - expected).abs().max() < 0.05 * expected.abs().max() + 0.05
    )


def test_an_encoder_whose_student_is_in_sync_is_one_with_a_single_shard():
    """Every norm of the student, those of the projector included, sees the whole batch."""
    torch.manual_seed(0)
    encoder = c.Encoder(width=4, norm="sync", projector=c.Head(hidden=8, out=4))
    parts = build_parts(encoder, 1, shards_of(0, 1)).double().train()
    assert {type(norm) for norm in norms_of(parts)} == {SyncNorm}
    whole = convert(parts, "batch")
    for norm in norms_of(whole):
        norm.shards = Shards(SIZE * TOTAL_SHARDS, 1, range(1))
    x = torch.randn(2 * SIZE * TOTAL_SHARDS, 1, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(through(parts, x), through(whole, x), rtol=1e-9, atol=1e-10)


def network(shards: Shards) -> nn.ModuleDict:
    torch.manual_seed(0)
    return build_parts(c.Encoder(width=4, projector=c.Head(hidden=8, out=4)), 1, shards).double().train()


def small_images(views: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(views, TOTAL_SHARDS, SIZE, 1, 8, 8, generator=generator, dtype=torch.float64)
    return x + torch.randn(views, TOTAL_SHARDS, SIZE, 1, 1, 1, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("workers", [1, 2])
def test_shuffle_normalises_with_shards_of_a_random_order_and_puts_it_back(together, workers):
    """Written plainly: view by view, a permutation of (seed, step, view), shards of it one by one, and its inverse."""
    x, step, seed = small_images(), 7, 3
    teachers = [teacher_of(network(shards_of(rank, workers)), seed=seed, norm="shuffle") for rank in range(workers)]
    alone = network(Shards(SIZE, 1, range(1)))
    expected = []
    for view, images in enumerate(x.flatten(1, 2)):
        order = keyed.permutation(len(images), seed, "shuffle", step, view).tolist()
        shuffled = torch.stack([images[place] for place in order])
        outputs = torch.cat([through(alone, shard) for shard in shuffled.split(SIZE)]).detach()
        expected.append(torch.stack([outputs[order.index(sample)] for sample in range(len(images))]))
    target = torch.stack(expected).unflatten(1, (TOTAL_SHARDS, SIZE))

    def act(rank: int) -> Tensor:
        shards = norms_of(teachers[rank])[0].shards
        mine = x[:, shards.mine.start : shards.mine.stop].flatten(0, 2)
        return teachers[rank].shuffled(mine, len(x), step, shards)

    for rank, found in enumerate(together([lambda rank=rank: act(rank) for rank in range(workers)])):
        mine = Group(rank, workers).share(TOTAL_SHARDS)
        torch.testing.assert_close(found, target[:, mine.start : mine.stop].flatten(0, 2), rtol=1e-10, atol=1e-11)
    in_order = torch.cat([through(alone, shard) for shard in x.flatten(0, 2).split(SIZE)])
    assert not torch.allclose(target.flatten(0, 2), in_order, rtol=1e-2)


def test_a_shuffle_is_inverted_afterwards():
    """A teacher that sees samples one by one gives each its own output back; steps and views differ in their order."""
    shards = shards_of(0, 1)
    parts = network(shards)
    disturb(parts, 1)
    teacher, x, seen = teacher_of(parts, norm="shuffle").eval(), small_images().flatten(0, 2), []
    teacher.parts["conv1"].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    for step in range(2):
        torch.testing.assert_close(
            teacher.shuffled(x, 2, step, shards), run_parts(teacher.parts, x), rtol=1e-12, atol=1e-12
        )
    samples = [[int((x == row).flatten(1).all(1).nonzero()) for row in shuffled] for shuffled in seen[::2]]
    views = [order for one in samples for order in (one[:12], [index - 12 for index in one[12:]])]
    assert all(sorted(order) == list(range(12)) for order in views) and len({tuple(order) for order in views}) == 4


@pytest.mark.parametrize("student", ["batch", "sync"])
@pytest.mark.parametrize("kind", ["sync", "shuffle", "momentum"])
def test_whole_batch_norms_give_the_same_trial_on_one_worker_and_on_two(tiny, digits, together, student, kind):
    """Uneven shards, all of a worker's in one pass; losses, weights, and the statistics of student and teacher."""
    values = {"train.precision": "fp64", "train.batch_size": 12, "train.shard_size": 4, "train.exact": False}
    norm = {"kind": kind, "history": "shared", "variance": "unbiased"}
    config = tiny({**values, "teacher.norm": norm, "encoder.norm": student, "teacher.placement": ["block3", "fc1"]})
    states = {}
    for workers in (1, 2):
        learners = [Learner(config, 1, 64, Group(rank, workers)) for rank in range(workers)]

        def act(learner: Learner) -> tuple[Tensor, dict[str, Tensor]]:
            order = torch.arange(64)
            losses = torch.stack([learner.step(feed_of(learner, digits).batches(order, at, 0)) for at in range(3)])
            return learner.group.sum(losses), learner.state_dict()[0]

        states[workers] = together([lambda learner=learner: act(learner) for learner in learners])
    ((losses, one),) = states[1]
    for found, two in states[2]:
        torch.testing.assert_close(found, losses, rtol=1e-9, atol=0)
        torch.testing.assert_close(two, one, rtol=1e-7, atol=1e-9)
