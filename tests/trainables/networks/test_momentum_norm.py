"""Momentum BN: the invariants of REFERENCE.md, E.2, against the formulas in float64."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from tests.trainables.layouts import through
from trainables.config import trial as c
from trainables.learning.teacher import Teacher
from trainables.networks.encoders import backbone_of, build_parts, plain_resnet_state
from trainables.networks.group import Group
from trainables.networks.norm_kinds import convert
from trainables.networks.norms.base import Shards, begin, commit, gather, norms_of
from trainables.networks.norms.batch import BatchNorm
from trainables.networks.norms.momentum import MomentumNorm

SIZE, CHANNELS = 8, 3


def view(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(SIZE, CHANNELS, 4, 4, generator=generator, dtype=torch.float64) * (seed % 5 + 1) + seed


def fresh(total: int = 1, mine: range | None = None) -> MomentumNorm:
    """With a history and weights that are not the initial ones."""
    norm = MomentumNorm(CHANNELS, Shards(SIZE, total, range(total) if mine is None else mine)).double()
    generator = torch.Generator().manual_seed(1)
    for tensor in norm.state_dict().values():
        tensor.copy_(torch.rand(tensor.shape, generator=generator, dtype=torch.float64) * 2 + 0.5)
    return norm


def statistics(x: Tensor, variance: str = "biased") -> Tensor:
    """Mean and variance [2, C]."""
    mean, count = x.mean((0, 2, 3)), x.numel() // CHANNELS
    return torch.stack([mean, (x - mean.view(-1, 1, 1)).square().sum((0, 2, 3)) / (count - (variance == "unbiased"))])


def normalised(x: Tensor, mean_and_var: Tensor, norm: MomentumNorm) -> Tensor:
    mean, var, weight, bias = (t.view(-1, 1, 1) for t in (*mean_and_var, norm.weight, norm.bias))
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias


def step(norm: MomentumNorm, alpha: float, *views: Tensor) -> tuple[Tensor, ...]:
    begin([norm], alpha)
    outputs = through(norm, torch.cat(views)).chunk(len(views))
    commit([norm], Group())
    return outputs


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("alpha", [0.0, 0.064, 0.5, 1.0])
def test_both_views_are_normalised_with_the_same_history(alpha):
    norm = fresh()
    history = norm.history[0].clone()
    for x, found in zip((view(1), view(2)), step(norm, alpha, view(1), view(2)), strict=True):
        close(found, normalised(x, alpha * statistics(x) + (1 - alpha) * history, norm))


def test_invariant_10_alpha_1_is_plain_batch_norm():
    """Fails when batches are blended with 0.99 alpha."""
    norm = fresh().float()
    a, b = view(1).float(), view(2).float()
    for x, found in zip((a, b), step(norm, 1.0, a, b), strict=True):
        assert (found - F.batch_norm(x, None, None, norm.weight, norm.bias, training=True)).abs().max() < 1e-5


def test_invariant_11_alpha_0_is_the_history_alone():
    """Fails when alpha is at least 0.001."""
    norm = fresh()
    mean, var = norm.history[0].clone()
    a, other = view(1), view(2)
    other[3] = a[3]
    (found,), (among_others,) = step(norm, 0.0, a), step(norm, 0.0, other)
    close(found, F.batch_norm(a, mean, var, norm.weight, norm.bias, training=False))
    assert torch.equal(found[3], among_others[3])
    assert torch.equal(norm.history[0], torch.stack([mean, var]))


def test_invariant_12_the_order_of_the_views_does_not_matter():
    """Fails when the last view alone is committed."""
    forth, back = fresh(), fresh()
    a, b = step(forth, 0.3, view(1), view(2))
    b_first, a_second = step(back, 0.3, view(2), view(1))
    assert torch.equal(a, a_second) and torch.equal(b, b_first)
    assert torch.equal(forth.history, back.history)


def test_invariant_13_a_view_does_not_depend_on_the_other():
    """Fails when views are normalised with their mean statistics."""
    _, with_one = step(fresh(), 0.3, view(1), view(2))
    _, with_other = step(fresh(), 0.3, view(7), view(2))
    assert torch.equal(with_one, with_other)


def test_invariant_14_eager_updates_would_make_it_depend():
    """The control of invariant 13: a commit after the first view is seen by the second."""
    # Fails when a commit does nothing.
    outputs = []
    for first in (view(1), view(7)):
        norm = fresh()
        step(norm, 0.3, first)
        outputs.extend(step(norm, 0.3, view(2)))
    assert not torch.allclose(*outputs)


@pytest.mark.parametrize("alpha", [0.0, 0.2, 1.0])
def test_invariant_15_commit_is_the_mean_of_what_the_views_were_normalised_with(alpha):
    """Fails when views are summed instead of averaged."""
    norm = fresh()
    history, s_a, s_b = norm.history[0].clone(), statistics(view(1)), statistics(view(2))
    step(norm, alpha, view(1), view(2))
    close(norm.history[0], alpha * (s_a + s_b) / 2 + (1 - alpha) * history)
    t_a, t_b = (alpha * s + (1 - alpha) * history for s in (s_a, s_b))
    close(norm.history[0], (t_a + t_b) / 2)


def test_invariant_16_two_equal_views_make_a_plain_average():
    """Fails when each view moves the history in its turn."""
    norm = fresh()
    history = norm.history[0].clone()
    step(norm, 0.3, view(1), view(1))
    close(norm.history[0], 0.7 * history + 0.3 * statistics(view(1)))


def test_invariant_17_a_constant_batch_is_approached_at_a_fixed_rate():
    """Fails when alpha is read as the history's share."""
    norm, target = fresh(), statistics(view(1))
    gap = norm.history[0] - target
    for count in range(1, 21):
        step(norm, 0.2, view(1), view(1))
        close(norm.history[0] - target, gap * 0.8**count)


def test_invariant_18_a_first_step_with_alpha_1_erases_the_initial_statistics():
    """Fails when a commit moves by 0.9 at most."""
    norm = MomentumNorm(CHANNELS, Shards(SIZE, 1, range(1))).double()
    close(norm.history[0], torch.tensor([[0.0] * CHANNELS, [1.0] * CHANNELS]).double())
    step(norm, 1.0, view(1), view(2))
    close(norm.history[0], (statistics(view(1)) + statistics(view(2))) / 2)


@pytest.mark.parametrize("count", [1, 3])
def test_invariant_19_any_number_of_views(count):
    """Fails when two views are taken for granted."""
    norm = fresh()
    history = norm.history[0].clone()
    views = [view(seed) for seed in range(count)]
    step(norm, 0.3, *views)
    close(norm.history[0], 0.7 * history + 0.3 * torch.stack([statistics(x) for x in views]).mean(0))


@pytest.mark.parametrize(("variance", "factor"), [("biased", 1.0), ("unbiased", 32 / 31), ("released", (32 / 31) ** 2)])
def test_invariant_20_conventions_of_the_variance(variance, factor):
    """At 32 samples and alpha 1, for the forward and for the history; the released code's ratio is 1.06556."""
    # Fails when the released variance is corrected once.
    norm = MomentumNorm(CHANNELS, Shards(32, 1, range(1))).double()
    norm.variance = variance
    x = torch.randn(32, CHANNELS, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 2 + 1
    biased = (x - x.mean(0)).square().mean(0)
    (output,) = step(norm, 1.0, x)
    close(norm.history[0, 1], biased * factor)
    close(output, (x - x.mean(0)) / (biased * factor + 1e-5).sqrt())
    assert round(factor, 5) in (1.0, 1.03226, 1.06556)


@pytest.mark.parametrize("variance", ["biased", "unbiased", "released"])
def test_invariant_20_a_map_counts_all_its_positions(variance):
    """And each of several shards its own samples; through the teacher's configuration."""
    # Fails when n counts images instead of positions.
    parts = nn.ModuleDict({"conv1": nn.Sequential(BatchNorm(CHANNELS, Shards(SIZE, 2, range(2)))).double()})
    config = {"norm": {"kind": "momentum", "variance": variance, "history": "shared"}, "placement": ["conv1"]}
    teacher = Teacher(c.Teacher.model_validate(config), parts, seed=0).train()
    (norm,) = norms_of(teacher)
    assert isinstance(norm, MomentumNorm) and norm.shared
    norm.shared = False
    step(norm, 1.0, torch.cat([view(1), view(2)]))
    n = SIZE * 16
    factor = {"biased": 1, "unbiased": n / (n - 1), "released": (n / (n - 1)) ** 2}[variance]
    for shard in range(2):
        mean, var = statistics(view(shard + 1))
        close(norm.history[shard], torch.stack([mean, var * factor]))


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("passes", ["one", "several"])
@pytest.mark.parametrize(("shared", "variance"), [(True, "biased"), (True, "unbiased"), (False, "biased")])
def test_invariant_23_histories_differ_but_for_a_shared_one(together, workers, passes, shared, variance):
    """A shared history moves to those of the whole batch: mean of means; mean of variances plus variance of means."""
    # Fails when the variance of means is left out, a shared variance is corrected by a shard's n, or histories are
    # always shared.
    views, alpha = torch.stack([torch.stack([view(10 * v + shard) for shard in range(3)]) for v in range(2)]), 0.4
    norms = [fresh(3, Group(rank, workers).share(3)) for rank in range(workers)]
    whole = [statistics(one.flatten(0, 1), variance) for one in views]
    initial = norms[0].history.clone()
    if shared:
        for norm in norms:
            norm.history.copy_(initial[:1].expand_as(initial))

    def act(rank: int) -> Tensor:
        norm, group = norms[rank], Group(rank, workers)
        norm.shared, norm.variance = shared, variance
        mine = norm.shards.mine
        begin([norm], alpha)
        for current in [mine] if passes == "one" else [range(shard, shard + 1) for shard in mine]:
            x = views[:, current.start : current.stop]
            output = through(norm, x.flatten(0, 2), norm.shards.layout(current)).view_as(x)
            for index, shard in enumerate(current):  # in the forward each shard is blended with its own statistics
                for v in range(2):
                    close(
                        output[v, index],
                        normalised(
                            views[v, shard],
                            torch.lerp(norm.history[shard], statistics(views[v, shard], variance), alpha),
                            norm,
                        ),
                    )
        commit([norm], group)
        if not shared:
            gather([norm], group)
        return norm.history

    histories = together([lambda rank=rank: act(rank) for rank in range(workers)])
    for history in histories:
        if shared:
            for row in history:
                close(row, (1 - alpha) * initial[0] + alpha * (whole[0] + whole[1]) / 2)
            assert torch.equal(history, histories[0]) and torch.equal(history[0], history[2])
        else:
            for shard, row in enumerate(history):
                close(
                    row,
                    (1 - alpha) * initial[shard]
                    + alpha * (statistics(views[0, shard]) + statistics(views[1, shard])) / 2,
                )
            assert not torch.allclose(history[0], history[2])


def test_invariant_21_an_evaluation_alters_neither_history_nor_what_is_pending():
    """Fails when an evaluation goes the way of a training batch."""
    norm, control = fresh(), fresh()
    begin([norm, control], 0.3)
    for one in (norm, control):
        through(one, torch.cat([view(1), view(2)]))
    history = norm.history.clone()
    norm.eval()
    close(norm(view(5)), normalised(view(5), history[0], norm))
    norm.train()
    assert torch.equal(norm.history, history)
    commit([norm], Group())
    commit([control], Group())
    assert torch.equal(norm.history, control.history)


def test_each_shard_has_its_own_history():
    """As separate norms on separate workers; an evaluation uses the mean of all histories."""
    norm = fresh(total=3)
    alone = [fresh() for _ in range(3)]
    for shard, other in enumerate(alone):
        other.history.copy_(norm.history[shard])
    for seed in range(2):
        views = [[view(seed + 10 * v + 3 * shard) for shard in range(3)] for v in range(2)]
        found = [part.chunk(3) for part in step(norm, 0.4, *(torch.cat(shards) for shards in views))]
        for shard, other in enumerate(alone):
            expected = step(other, 0.4, views[0][shard], views[1][shard])
            close(found[0][shard], expected[0])
            close(found[1][shard], expected[1])
            close(norm.history[shard], other.history[0])
    norm.eval()
    close(norm(view(4)), normalised(view(4), torch.cat([other.history for other in alone]).mean(0), norm))


def test_a_worker_writes_the_rows_of_its_own_shards():
    norm, whole = fresh(total=3, mine=range(1, 3)), fresh(total=3)
    views = [torch.cat([view(10 * v + shard) for shard in range(3)]) for v in range(2)]
    before = norm.history.clone()
    every = step(whole, 0.4, *views)
    mine = step(norm, 0.4, *(x[SIZE:] for x in views))
    for v in range(2):
        close(mine[v], every[v][SIZE:])
    assert torch.equal(norm.history[0], before[0])
    assert torch.equal(norm.history[1:], whole.history[1:]) and not torch.equal(norm.history, before)


@pytest.mark.parametrize("network", ["student", "teacher"])
def test_invariant_24_the_exported_network_equals_momentum_norm_at_alpha_0(rng, network):
    """Of a student with Momentum BN, and of a teacher whose student has batch norm."""
    # Fails when statistics are exported 10 % too large.
    norm = "momentum" if network == "student" else "batch"
    config = c.Encoder(width=64, stem="standard", norm=norm, projector=c.Head(hidden=8, out=4))
    own = build_parts(config, 3, Shards(2, 1, range(1)))
    parts = nn.ModuleDict({name: convert(part, "momentum") for name, part in own.items()}).train()
    for norm in norms_of(parts):
        noise = torch.rand(norm.history.shape, generator=rng)
        norm.history.copy_(
            noise + torch.tensor([[-0.5], [0.5]])
        )  # means around 0, or no channel would outlive its ReLU
    model = torchvision.models.resnet18()
    model.fc = nn.Identity()
    model.load_state_dict(plain_resnet_state(parts), strict=True)
    model.eval()
    begin(norms_of(parts), 0.0)
    x = torch.randn(4, 3, 40, 40, generator=rng)
    with torch.no_grad():
        found, expected = through(backbone_of(parts), x), model(x)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.std().item())
