"""Momentum BN: the statistics of a shard are blended with their own history (Momentum² Teacher, eq. 3, 5, 6)."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from trainables.config.norms import NormOptions
from trainables.networks.group import Group
from trainables.networks.norms.base import EPS, Norm, Pending, Shards, batch_statistics, normalise

CORRECTIONS = {"biased": 0, "unbiased": 1, "released": 2}  # how often a variance is multiplied by n / (n - 1)


class MomentumNorm(Norm):
    """Momentum BN with one history for each shard, or one that all shards share, for teachers and for students.

    Lazy: all views of a step see the same history S and the same alpha: T_v = alpha s_v + (1 - alpha) S. `commit` then
    moves S <- alpha mean_v(s_v) + (1 - alpha) S.

    Not lazy, the paper's control: each view sees what the view before it made of the history, T_v = alpha s_v +
    (1 - alpha) T_(v-1) with T_0 = S, in the order of the sights. `commit` moves S to the last T_v. Until then the
    statistics of earlier forwards are pending, so that here too no forward changes a buffer.

    Gradient: the history is a constant, earlier views in it included. The part of the batch is differentiated through,
    as in batch norm, so that its gradient has the factor alpha: with alpha 1 it is batch norm's, with alpha 0 that of
    fixed statistics. (The paper's teacher needs none, and the paper says no more of the student's than that BN
    differentiates through the statistics of the batch; this is the reading of that.)

    Buffer: history [num_shards, 2, C], mean and variance of each shard. A worker keeps the rows of its own shards up to
    date; `gather` makes all rows true on all workers. With a shared history all rows are alike: s is then mean and
    variance of the whole batch of a view, and the variance is corrected by the n of the whole batch. An evaluation uses
    the mean of all rows.
    """

    variance = "biased"
    shared = False
    lazy = True

    history: Tensor

    def __init__(self, channels: int, shards: Shards):
        super().__init__(channels, shards)
        self.alpha = 1.0  # set for each step by `begin`

    def register_statistics(self, channels: int) -> None:
        history = torch.stack([torch.zeros(channels), torch.ones(channels)])
        self.register_buffer("history", history.repeat(self.shards.total, 1, 1))

    def configure(self, config: NormOptions) -> None:
        self.variance, self.shared, self.lazy = config.variance, config.history == "shared", config.lazy

    def begin(self, alpha: float) -> None:
        super().begin(alpha)
        self.alpha = alpha

    def evaluation_statistics(self) -> tuple[Tensor, Tensor]:
        mean, var = self.history.mean(0).unbind()
        return mean, var

    def take_statistics(self, mean: Tensor, var: Tensor) -> None:
        self.history.copy_(torch.stack([mean, var]))

    def normalise_batch(self, x: Tensor) -> Tensor:
        shards = self.by_shard(x)
        biased = torch.stack([torch.stack(batch_statistics(shard)) for shard in shards]).to(self.history.dtype)
        count = shards[0].numel() // self.channels
        correction = self.correction(count)
        corrected = corrected_by(correction, biased)
        blended = self.blended(corrected)
        self.leave_pending(biased if self.shared else corrected, count)
        return _BlendedFunction.apply(x, self.weight, self.bias, blended, biased, self.alpha, correction)

    @torch.no_grad()
    def blended(self, statistics: Tensor) -> Tensor:
        """What a forward normalises with.

        Args:
            statistics: of its shards, by view and shard, [views * shards, 2, C].

        Returns:
            The same, blended with the history: [views * shards, 2, C].
        """
        current = self.layout.shards
        if self.lazy:
            return torch.lerp(self.rows(current).repeat(len(statistics) // len(current), 1, 1), statistics, self.alpha)
        rows, blended = self.rows(current).clone(), []
        if self.pending and self.pending[-1].shards == current:
            self.advance([rows], [self.pending[-1]], self.alpha)
        for view in statistics.split(len(current)):
            rows = torch.lerp(rows, view, self.alpha)
            blended.append(rows)
        return torch.cat(blended)

    def correction(self, count: int) -> float:
        """What the biased variance of `count` numbers is multiplied by."""
        return (count / (count - 1)) ** CORRECTIONS[self.variance]

    def rows(self, shards: range) -> Tensor:
        """History [shards, 2, C] of some shards, as a view."""
        return self.history[shards.start : shards.stop]

    @staticmethod
    def advance(rows: Sequence[Tensor], pending: Sequence[Pending], alpha: float, lazy: bool = False) -> None:
        """Moves rows of histories by pending statistics, in place: once by their mean, or view by view."""
        steps = [[one.views.mean(0)] if lazy else list(one.views.unbind()) for one in pending]
        for targets in zip(*steps, strict=True):
            torch._foreach_lerp_(list(rows), list(targets), alpha)

    @classmethod
    def commit_all(cls, norms: Sequence[Self], group: Group) -> None:
        if norms[0].shared:
            _share_pending(norms, group)
        rows = [norm.rows(pending.shards) for norm in norms for pending in norm.pending]
        cls.advance(rows, [pending for norm in norms for pending in norm.pending], norms[0].alpha, norms[0].lazy)

    @classmethod
    def gather_all(cls, norms: Sequence[Self], group: Group) -> None:
        """Exact, since each row of a history has one owner."""
        owned = [torch.zeros_like(norm.history) for norm in norms]
        for norm, rows in zip(norms, owned, strict=True):
            rows[norm.shards.mine.start : norm.shards.mine.stop] = norm.rows(norm.shards.mine)
        flat = group.sum(torch.cat([rows.flatten() for rows in owned]))
        for norm, rows in zip(norms, flat.split([norm.history.numel() for norm in norms]), strict=True):
            norm.history.copy_(rows.view_as(norm.history))


def corrected_by(correction: float | Tensor, biased: Tensor) -> Tensor:
    """Biased statistics [..., 2, C] with their variances multiplied by `correction`."""
    corrected = biased.clone()
    corrected[..., 1, :] *= correction
    return corrected


def _share_pending(norms: Sequence[MomentumNorm], group: Group) -> None:
    """Replaces the pending statistics of each shard by those of the whole batch, alike for every shard of it.

    Collective.
    """
    parts = [torch.cat([pending.views for pending in norm.pending], dim=1).double() for norm in norms]
    # each part is [views, my shards, 2, C]; the sums are those of means, variances and squared means
    sums = [torch.cat([part, part[:, :, :1] ** 2], dim=2).sum(1) for part in parts]
    widths = [3 * norm.history.shape[-1] for norm in norms]
    total = norms[0].shards.total
    flat = group.sum(torch.cat([s.flatten(1) for s in sums], dim=1)) / total
    for norm, piece in zip(norms, flat.split(widths, dim=1), strict=True):
        mean, var, square = piece.unflatten(1, (3, -1)).unbind(1)
        whole = torch.stack([mean, var + (square - mean**2).clamp(min=0)], dim=1).to(norm.history.dtype)
        counts = tuple(total * count for count in norm.pending[-1].counts)
        corrections = whole.new_tensor([norm.correction(count) for count in counts])[:, None]
        alike = corrected_by(corrections, whole)[:, None].expand(-1, total, -1, -1)
        norm.pending = [Pending(range(total), alike, counts)]


class _BlendedFunction(torch.autograd.Function):
    """(x - m) / sqrt(v + eps) * weight + bias, by pieces of a batch, with blended statistics m, v [pieces, 2, C].

    The gradient passes through the part of m and v that is the piece's own: alpha times its mean, and alpha times
    `correction` times its biased variance.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        blended: Tensor,
        biased: Tensor,
        alpha: float,
        correction: float,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, blended, biased)
        ctx.alpha, ctx.correction = alpha, correction
        return normalise(x, weight, bias, blended)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, blended, biased = ctx.saved_tensors
        back, to_weights = torch.empty_like(x), []
        shape, count = [-1] + [1] * (x.ndim - 2), x.numel() // (len(blended) * x.shape[1])
        pieces = (tensor.chunk(len(blended)) for tensor in (x, gradients[0], back))
        for piece, gradient, target, (mean, var), (own, _) in zip(*pieces, blended, biased, strict=True):
            to_input, to_weight, to_bias = torch.ops.aten.native_batch_norm_backward(
                gradient, piece, weight, mean, var, None, None, False, EPS, [True, True, True]
            )
            # With g = dL/dy weight, s = 1 / sqrt(v + eps) and n(x) = (x - m) s the input's gradient is
            # s g - alpha s mean(g) - alpha correction s^2 mean(g n(x)) (x - own mean); `to_input` is s g.
            scale = (var + EPS).rsqrt()
            slope = -ctx.alpha * ctx.correction * scale.square() * weight * to_weight / count
            offset = -ctx.alpha * scale * weight * to_bias / count - slope * own
            through_statistics = torch.addcmul(offset.view(shape), piece.to(weight.dtype), slope.view(shape))
            target.copy_(through_statistics.add_(to_input))
            to_weights.append((to_weight, to_bias))
        to_weight, to_bias = (sum(kind[1:], start=kind[0]) for kind in zip(*to_weights, strict=True))
        return back, to_weight, to_bias, None, None, None, None
