"""Plain batch norm: each shard is normalised with its own statistics."""

from typing import Any

import torch
from torch import Tensor

from trainables.networks.norms.base import EPS, Norm, normalise


class BatchNorm(Norm):
    """Plain batch norm per shard. With one shard and one view it equals torch's BatchNorm."""

    def normalise_batch(self, x: Tensor) -> Tensor:
        shards = self.by_shard(x)
        statistics = torch.zeros(len(shards), 2, len(self.weight), dtype=self.weight.dtype, device=x.device)
        normalised = _ShardFunction.apply(x, self.weight, self.bias, statistics)
        self.leave_pending(statistics, shards[0].numel() // len(self.weight))
        return normalised


class _ShardFunction(torch.autograd.Function):
    """Batch norm of equal pieces of a batch, each by its own statistics, into one output.

    It saves the copies of joining the pieces.

    `statistics` [pieces, 2, C] receives their means and unbiased variances.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, statistics: Tensor) -> Tensor:
        saved = torch.empty_like(statistics)
        output = normalise(x, weight, bias, statistics, saved)
        ctx.save_for_backward(x, weight, saved)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, saved = ctx.saved_tensors
        back, to_weights = torch.empty_like(x), []
        pieces = (tensor.chunk(len(saved)) for tensor in (x, gradients[0], back))
        for piece, gradient, target, (mean, scale) in zip(*pieces, saved.unbind(), strict=True):
            to_input, to_weight, to_bias = torch.ops.aten.native_batch_norm_backward(
                gradient, piece, weight, None, None, mean, scale, True, EPS, [True, True, True]
            )
            target.copy_(to_input)
            to_weights.append((to_weight, to_bias))
        to_weight, to_bias = (sum(kind[1:], start=kind[0]) for kind in zip(*to_weights, strict=True))
        return back, to_weight, to_bias, None
