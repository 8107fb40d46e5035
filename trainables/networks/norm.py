"""Batch normalisation whose statistics belong to shards, with one body for 1d and 2d inputs.

A forward holds views, a view holds the current shards, a shard holds its samples: [view, shard, sample]. Statistics are computed
shard by shard, so a trial does not depend on how its shards are dealt to workers. A forward changes no state: it leaves its statistics
pending, and `commit` brings them in once the step's forwards are done (the lazy update of Momentum² Teacher, sec. 3.3).
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.networks.group import Group

EPS = 1e-5
RUNNING_SHARE = 0.1  # share of the current batch in plain running statistics, as in torch
CORRECTIONS = {"biased": 0, "unbiased": 1, "released": 2}  # how often a variance is multiplied by n / (n - 1)


class Shards:
    """The shards of a trial, those that this worker holds, and those that the forward at hand is about. All norms of a Learner share one.

    Args:
        size: samples of a shard.
        total: shards of the batch.
        mine: those of this worker; the forward is about all of them, until `current` is set.
        group: the workers; norms that look at the whole batch talk with them.
    """

    def __init__(self, size: int, total: int, mine: range, group: Group = Group()):
        self.size, self.total, self.mine, self.current, self.group = size, total, mine, mine, group
        self.samples = size  # of a shard in the forward at hand, where a method shows more or fewer than its images

    @property
    def counts(self) -> list[int]:
        """Shards of each worker."""
        return self.group.split(self.total)

    def __deepcopy__(self, memo: object) -> "Shards":
        return self


class Norm(nn.Module):
    """Plain batch norm per shard; running statistics are shared by all shards, for evaluation.

    Buffers: running_mean [C], running_var [C] (unbiased, as in torch). With one shard and one view it equals torch's BatchNorm.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, shards: Shards):
        super().__init__()
        self.shards = shards
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.pending: list[
            tuple[range, Tensor]
        ] = []  # of this step's forwards: shards, [views, shards, 2, C]; empty between steps

    def forward(self, x: Tensor) -> Tensor:
        return self.normalise_batch(x) if self.training else self.affine(x, *self.evaluation_statistics())

    def evaluation_statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and variance [C] that an evaluation uses."""
        return self.running_mean, self.running_var

    def affine(self, x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        """(x - mean) / sqrt(var + eps) * weight + bias, with statistics [C] from elsewhere."""
        return F.batch_norm(x, mean, var, self.weight, self.bias, False, 0.0, EPS)

    def by_shard(self, x: Tensor) -> tuple[Tensor, ...]:
        """The shards of a batch [views * current shards * samples, C, ...], view by view."""
        if len(x) % (len(self.shards.current) * self.shards.samples):
            raise ValueError(
                f"a training batch of {len(x)} is no multiple of {len(self.shards.current)} shards of {self.shards.samples}"
            )
        return x.split(self.shards.samples)

    def leave_pending(self, found: Tensor) -> None:
        """Keeps the statistics [views * current shards, 2, C] of a forward for `commit`; a second one of these shards adds views."""
        shards, views = self.shards.current, found.unflatten(0, (-1, len(self.shards.current)))
        if self.pending and self.pending[-1][0] == shards:
            views = torch.cat([self.pending.pop()[1], views])
        self.pending.append((shards, views))

    def normalise_batch(self, x: Tensor) -> Tensor:
        found = torch.zeros(len(self.by_shard(x)), 2, len(self.weight), dtype=self.weight.dtype, device=x.device)
        normalised = _ShardFunction.apply(x, self.weight, self.bias, found)
        self.leave_pending(found)
        return normalised


class _ShardFunction(torch.autograd.Function):
    """Batch norm of equal pieces of a batch, each by its own statistics, into one output: without the copies that joining pieces costs.

    `found` [pieces, 2, C] receives their means and unbiased variances.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, found: Tensor) -> Tensor:
        saved = torch.empty_like(found)
        output = _normalise(x, weight, bias, found, saved)
        ctx.save_for_backward(x, weight, saved)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, saved = ctx.saved_tensors
        back, own = torch.empty_like(x), []
        pieces = (tensor.chunk(len(saved)) for tensor in (x, gradients[0], back))
        for piece, gradient, target, (mean, scale) in zip(*pieces, saved.unbind(), strict=True):
            to_input, to_weight, to_bias = torch.ops.aten.native_batch_norm_backward(
                gradient, piece, weight, None, None, mean, scale, True, EPS, [True, True, True]
            )
            target.copy_(to_input)
            own.append((to_weight, to_bias))
        to_weight, to_bias = (sum(kind[1:], start=kind[0]) for kind in zip(*own, strict=True))
        return back, to_weight, to_bias, None


def _normalise(x: Tensor, weight: Tensor, bias: Tensor, statistics: Tensor, saved: Tensor | None = None) -> Tensor:
    """Equal pieces of a batch, each normalised with its row of `statistics` [pieces, 2, C], into one output.

    With `saved` [pieces, 2, C] the pieces' own statistics are used: `statistics` and `saved` receive them, as torch's batch norm leaves
    them (unbiased variances; means and 1 / sqrt(biased variance + eps)).
    """
    if not (
        x.is_contiguous()
        or x.is_contiguous(memory_format=torch.channels_last if x.ndim == 4 else torch.contiguous_format)
    ):
        x = x.contiguous()  # of a piece with gaps the kernel gives wrong statistics
    output, rows = torch.empty_like(x), torch.empty_like(statistics) if saved is None else saved
    pieces = zip(x.chunk(len(rows)), output.chunk(len(rows)), statistics.unbind(), rows.unbind(), strict=True)
    for piece, target, (mean, var), row in pieces:
        # a share of 1 puts the batch's own statistics there
        torch.ops.aten.native_batch_norm.out(
            piece,
            weight,
            bias,
            mean,
            var,
            saved is not None,
            1.0,
            EPS,
            out=target,
            save_mean=row[0],
            save_invstd=row[1],
        )
    return output


class SyncNorm(Norm):
    """Batch norm over the whole batch of a view, on all workers, with its gradient: on CPUs too, which torch's SyncBatchNorm refuses.

    A forward is about all of a worker's shards, and collective; so is its backward.
    """

    def normalise_batch(self, x: Tensor) -> Tensor:
        shards, total = self.by_shard(x), self.shards.total
        if len(self.shards.current) != len(self.shards.mine):
            raise ValueError("sync looks at the whole batch: the shards of a worker go through it in one pass")
        found = (
            torch.stack([torch.stack(batch_statistics(shard)) for shard in shards])
            .double()
            .unflatten(0, (-1, len(self.shards.mine)))
        )
        everywhere = self.shards.group.join(found.transpose(0, 1).contiguous(), self.shards.counts).transpose(0, 1)
        merged = merge(everywhere)  # [views, 2, C]
        count = total * shards[0].numel() // len(self.weight)
        unbiased = merged * torch.tensor([1.0, count / (count - 1)], device=x.device, dtype=torch.float64)[:, None]
        self.leave_pending(unbiased.to(self.weight.dtype).repeat_interleave(len(self.shards.mine), 0))
        statistics = merged.to(self.weight.dtype)
        return _SyncFunction.apply(x, self.weight, self.bias, statistics, count, self.shards.group)


class _SyncFunction(torch.autograd.Function):
    """(x - mean) / sqrt(var + eps) * weight + bias with statistics [views, 2, C] of the whole batch, whose gradient passes through them."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, statistics: Tensor, count: int, group: Group
    ) -> Tensor:
        ctx.save_for_backward(x, weight, statistics)
        ctx.count, ctx.group = count, group
        return _normalise(x, weight, bias, statistics)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, statistics = ctx.saved_tensors
        dims = [d for d in range(x.ndim) if d != 1]
        shape = [1, -1] + [1] * (x.ndim - 2)
        pairs = [(s[0].view(shape), (s[1] + EPS).rsqrt().view(shape)) for s in statistics.unbind()]
        views = list(zip(x.chunk(len(statistics)), gradients[0].chunk(len(statistics)), pairs, strict=True))
        normalised = [(view.to(weight.dtype) - mean) * scale for view, _, (mean, scale) in views]
        products = [(gradient, gradient * n) for (_, gradient, _), n in zip(views, normalised, strict=True)]
        sums = torch.stack([torch.stack([one.sum(dims, dtype=torch.float64) for one in pair]) for pair in products])
        own = sums.sum(0).to(weight.dtype)
        means = (ctx.group.sum(sums) / ctx.count).to(weight.dtype)
        back = [
            ((g - m[0].view(shape) - n * m[1].view(shape)) * (weight.view(shape) * scale)).to(x.dtype)
            for (_, g, (_, scale)), n, m in zip(views, normalised, means, strict=True)
        ]
        return torch.cat(back), own[1], own[0], None, None, None


class MomentumNorm(Norm):
    """Momentum BN: the teacher's statistics are blended with their own history (Momentum² Teacher, eq. 3, 5, 6 as resolved).

    Any number of views of a step see the same history and alpha: T_v = alpha s_v + (1 - alpha) S. `commit` then moves
    S <- alpha mean_v(s_v) + (1 - alpha) S. Buffer: history [num_shards, 2, C], mean and variance of each shard;
    a worker's rows are true on that worker, `gather_history` makes them true on all. With `shared` history its rows are alike: s is then
    the mean and the variance of the whole batch of a view, whose n the variance is corrected by.
    """

    variance = "biased"
    shared = False

    history: Tensor

    def __init__(self, channels: int, shards: Shards):
        super().__init__(channels, shards)
        history = torch.stack([torch.zeros(channels), torch.ones(channels)])
        self.register_buffer("history", history.repeat(shards.total, 1, 1))
        del self.running_mean, self.running_var
        self.alpha = 1.0  # set for each step by `begin`
        self.count = 0  # numbers that a shard has for each channel, in the last forward

    def evaluation_statistics(self) -> tuple[Tensor, Tensor]:
        mean, var = self.history.mean(0).unbind()
        return mean, var

    @torch.no_grad()
    def normalise_batch(self, x: Tensor) -> Tensor:
        shards = self.by_shard(x)
        found = torch.stack([torch.stack(batch_statistics(shard)) for shard in shards]).to(self.history.dtype)
        self.count = shards[0].numel() // len(self.weight)
        views = len(shards) // len(self.shards.current)
        own = self.corrected(found)
        blended = torch.lerp(self.rows(self.shards.current).repeat(views, 1, 1), own, self.alpha)
        self.leave_pending(found if self.shared else own)
        return _normalise(x, self.weight, self.bias, blended)

    def corrected(self, found: Tensor, shards: int = 1) -> Tensor:
        """Biased statistics [..., 2, C] of so many shards together, with the variance that is configured."""
        count = shards * self.count
        own = found.clone()
        own[..., 1, :] *= (count / (count - 1)) ** CORRECTIONS[self.variance]
        return own

    def rows(self, shards: range) -> Tensor:
        """History [shards, 2, C] of some shards, as a view."""
        return self.history[shards.start : shards.stop]


class EmanNorm(Norm):
    """EMAN: always normalises with averages of the student's running statistics, sample by sample; the Teacher does the averaging."""

    def forward(self, x: Tensor) -> Tensor:
        return self.affine(x, *self.evaluation_statistics())


KINDS: dict[str, type[Norm]] = {
    "batch": Norm,
    "sync": SyncNorm,
    "shuffle": Norm,
    "momentum": MomentumNorm,
    "eman": EmanNorm,
}


@torch.no_grad()
def batch_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance [C] of one shard [N, C, ...], in one pass and at least in float32."""
    mean, var = torch.batch_norm_update_stats(
        x.float() if x.dtype in (torch.bfloat16, torch.float16) else x, None, None, 0.0
    )
    return mean, var


def merge(found: Tensor) -> Tensor:
    """Statistics of equal shards [..., shards, 2, C], biased, as those of all their samples [..., 2, C]."""
    mean, var = found.unbind(-2)
    return torch.stack([mean.mean(-2), var.mean(-2) + mean.var(-2, correction=0)], dim=-2)


def convert(module: nn.Module, kind: str) -> nn.Module:
    """A copy of `module` whose norms are of another kind. Weights and, where both have them, buffers are copied."""
    module = copy.deepcopy(module)
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, Norm) and type(child) is not KINDS[kind]:
                norm = KINDS[kind](len(child.weight), child.shards).to(child.weight)
                norm.load_state_dict(child.state_dict(), strict=False)
                setattr(parent, name, norm)
    return module


def norms_of(*modules: nn.Module) -> list[Norm]:
    """All norms in these modules, in the order of definition."""
    return [norm for module in modules for norm in module.modules() if isinstance(norm, Norm)]


def begin(norms: Sequence[Norm], alpha: float) -> None:
    """Opens a step: Momentum BN will blend with this alpha, and what an aborted step left pending is dropped."""
    for norm in norms:
        norm.pending.clear()
        if isinstance(norm, MomentumNorm):
            norm.alpha = alpha


@torch.no_grad()
def commit(norms: Sequence[Norm], group: Group) -> None:
    """Closes a step: brings pending statistics into the buffers. Collective: all layers of all norms share one sum over the workers.

    Plain norms move their running statistics once a view, as separate forwards would, towards the mean over all shards. That mean is summed
    in float64, so that it does not depend on the number of workers.
    """
    momentum = [norm for norm in norms if norm.pending and isinstance(norm, MomentumNorm)]
    if momentum and momentum[0].shared:
        _share_pending(momentum, group)
    plain = [norm for norm in norms if norm.pending and not isinstance(norm, MomentumNorm)]
    if momentum:
        rows = [norm.rows(shards) for norm in momentum for shards, _ in norm.pending]
        torch._foreach_lerp_(rows, [found.mean(0) for norm in momentum for _, found in norm.pending], momentum[0].alpha)
    if plain:
        passes = zip(*(norm.pending for norm in plain), strict=True)
        sums = [
            torch.cat([found.flatten(2) for _, found in layers], dim=2).sum(1, dtype=torch.float64) for layers in passes
        ]
        flat = group.sum(torch.stack(sums).sum(0)) / plain[0].shards.total  # [views, 2 C of every layer]
        running = [buffer for norm in plain for buffer in (norm.running_mean, norm.running_var)]
        widths = [buffer.numel() for buffer in running]
        for view in flat.to(running[0].dtype):
            torch._foreach_lerp_(running, list(view.split(widths)), RUNNING_SHARE)
    for norm in norms:
        norm.pending.clear()


def _share_pending(norms: Sequence[MomentumNorm], group: Group) -> None:
    """Pending statistics of each shard become those of the whole batch, alike for every shard of it. Collective."""
    parts = [
        torch.cat([found for _, found in norm.pending], dim=1).double() for norm in norms
    ]  # each [views, my shards, 2, C]
    sums = [
        torch.cat([part, part[:, :, :1] ** 2], dim=2).sum(1) for part in parts
    ]  # of means, variances and squared means
    widths = [3 * norm.history.shape[-1] for norm in norms]
    flat = group.sum(torch.cat([s.flatten(1) for s in sums], dim=1)) / norms[0].shards.total
    for norm, piece in zip(norms, flat.split(widths, dim=1), strict=True):
        mean, var, square = piece.unflatten(1, (3, -1)).unbind(1)
        whole = torch.stack([mean, var + (square - mean**2).clamp(min=0)], dim=1).to(norm.history.dtype)
        everyone = range(norm.shards.total)
        norm.pending = [(everyone, norm.corrected(whole, norm.shards.total)[:, None].expand(-1, len(everyone), -1, -1))]


@torch.no_grad()
def gather_history(norms: Sequence[Norm], group: Group) -> None:
    """Makes every row of Momentum BN's history true on every worker. Collective; exact, since each row has one owner."""
    momentum = [norm for norm in norms if isinstance(norm, MomentumNorm)]
    if group.size == 1 or not momentum:
        return
    owned = [torch.zeros_like(norm.history) for norm in momentum]
    for norm, rows in zip(momentum, owned, strict=True):
        rows[norm.shards.mine.start : norm.shards.mine.stop] = norm.rows(norm.shards.mine)
    flat = group.sum(torch.cat([rows.flatten() for rows in owned]))
    for norm, rows in zip(momentum, flat.split([norm.history.numel() for norm in momentum]), strict=True):
        norm.history.copy_(rows.view_as(norm.history))
