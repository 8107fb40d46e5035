"""Synchronised batch norm: statistics of the whole batch of a view, on all workers."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from trainables.networks.group import Group
from trainables.networks.norms.base import EPS, Norm, batch_statistics, normalise


class SyncNorm(Norm):
    """Batch norm over the whole batch of a view, on all workers, with its gradient.

    Runs on CPUs too, which torch's SyncBatchNorm refuses.

    A forward takes all of a worker's shards and is collective; so is its backward.
    """

    WHOLE_BATCH: ClassVar[bool] = True

    def normalise_batch(self, x: Tensor) -> Tensor:
        shards, mine, group = self.by_shard(x), self.shards.mine, self.shards.group
        if len(self.layout.shards) != len(mine):
            raise ValueError("sync looks at the whole batch: the shards of a worker go through it in one pass")
        each = torch.stack([torch.stack(batch_statistics(shard)) for shard in shards])
        own = each.double().unflatten(0, (-1, len(mine)))
        everywhere = group.join(own.transpose(0, 1).contiguous(), self.shards.counts).transpose(0, 1)
        merged = merge(everywhere)  # [views, 2, C]
        of_a_shard = shards[0].numel() // len(self.weight)
        count = self.shards.total * of_a_shard
        unbiased = merged * torch.tensor([1.0, count / (count - 1)], device=x.device, dtype=torch.float64)[:, None]
        self.leave_pending(unbiased.to(self.weight.dtype).repeat_interleave(len(mine), 0), of_a_shard)
        return _SyncFunction.apply(x, self.weight, self.bias, merged.to(self.weight.dtype), count, group)


def merge(statistics: Tensor) -> Tensor:
    """Biased statistics of equal shards [..., shards, 2, C] as those of all their samples [..., 2, C]."""
    mean, var = statistics.unbind(-2)
    return torch.stack([mean.mean(-2), var.mean(-2) + mean.var(-2, correction=0)], dim=-2)


class _SyncFunction(torch.autograd.Function):
    """(x - mean) / sqrt(var + eps) * weight + bias with statistics [views, 2, C] of the whole batch.

    The gradient passes through the statistics.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, statistics: Tensor, count: int, group: Group
    ) -> Tensor:
        ctx.save_for_backward(x, weight, statistics)
        ctx.count, ctx.group = count, group
        return normalise(x, weight, bias, statistics)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, statistics = ctx.saved_tensors
        dims = [d for d in range(x.ndim) if d != 1]
        shape = [1, -1] + [1] * (x.ndim - 2)
        pairs = [(s[0].view(shape), (s[1] + EPS).rsqrt().view(shape)) for s in statistics.unbind()]
        views = list(zip(x.chunk(len(statistics)), gradients[0].chunk(len(statistics)), pairs, strict=True))
        normalised = [(view.to(weight.dtype) - mean) * scale for view, _, (mean, scale) in views]
        products = [(gradient, gradient * n) for (_, gradient, _), n in zip(views, normalised, strict=True)]
        sums = torch.stack(
            [torch.stack([factor.sum(dims, dtype=torch.float64) for factor in pair]) for pair in products]
        )
        to_weights = sums.sum(0).to(weight.dtype)
        means = (ctx.group.sum(sums) / ctx.count).to(weight.dtype)
        back = [
            ((g - m[0].view(shape) - n * m[1].view(shape)) * (weight.view(shape) * scale)).to(x.dtype)
            for (_, g, (_, scale)), n, m in zip(views, normalised, means, strict=True)
        ]
        return torch.cat(back), to_weights[1], to_weights[0], None, None, None
