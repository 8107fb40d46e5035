"""Momentum BN: the statistics of a shard are blended with their own history (Momentum² Teacher, eq. 3, 5, 6)."""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from trainables.config.teacher import TeacherNorm
from trainables.networks.group import Group
from trainables.networks.norms.base import Norm, Pending, Shards, batch_statistics, normalise

CORRECTIONS = {"biased": 0, "unbiased": 1, "released": 2}  # how often a variance is multiplied by n / (n - 1)


class MomentumNorm(Norm):
    """Momentum BN with one history for each shard, or one that all shards share.

    All views of a step see the same history S and the same alpha: T_v = alpha s_v + (1 - alpha) S. `commit` then moves
    S <- alpha mean_v(s_v) + (1 - alpha) S.

    Buffer: history [num_shards, 2, C], mean and variance of each shard. A worker keeps the rows of its own shards up to
    date; `gather` makes all rows true on all workers. With a shared history all rows are alike: s is then mean and
    variance of the whole batch of a view, and the variance is corrected by the n of the whole batch.
    """

    variance = "biased"
    shared = False

    history: Tensor

    def __init__(self, channels: int, shards: Shards):
        super().__init__(channels, shards)
        self.alpha = 1.0  # set for each step by `begin`

    def register_statistics(self, channels: int) -> None:
        history = torch.stack([torch.zeros(channels), torch.ones(channels)])
        self.register_buffer("history", history.repeat(self.shards.total, 1, 1))

    def configure(self, config: TeacherNorm) -> None:
        self.variance, self.shared = config.variance, config.history == "shared"

    def begin(self, alpha: float) -> None:
        super().begin(alpha)
        self.alpha = alpha

    def evaluation_statistics(self) -> tuple[Tensor, Tensor]:
        mean, var = self.history.mean(0).unbind()
        return mean, var

    @torch.no_grad()
    def normalise_batch(self, x: Tensor) -> Tensor:
        shards, current = self.by_shard(x), self.layout.shards
        biased = torch.stack([torch.stack(batch_statistics(shard)) for shard in shards]).to(self.history.dtype)
        count = shards[0].numel() // len(self.weight)
        views = len(shards) // len(current)
        corrected = self.corrected(biased, count)
        blended = torch.lerp(self.rows(current).repeat(views, 1, 1), corrected, self.alpha)
        self.leave_pending(biased if self.shared else corrected, count)
        return normalise(x, self.weight, self.bias, blended)

    def corrected(self, biased: Tensor, count: int) -> Tensor:
        """Biased statistics [..., 2, C] of `count` numbers a channel, with the variance that is configured."""
        corrected = biased.clone()
        corrected[..., 1, :] *= (count / (count - 1)) ** CORRECTIONS[self.variance]
        return corrected

    def rows(self, shards: range) -> Tensor:
        """History [shards, 2, C] of some shards, as a view."""
        return self.history[shards.start : shards.stop]

    @classmethod
    def commit_all(cls, norms: Sequence[Self], group: Group) -> None:
        if norms[0].shared:
            _share_pending(norms, group)
        rows = [norm.rows(pending.shards) for norm in norms for pending in norm.pending]
        targets = [pending.views.mean(0) for norm in norms for pending in norm.pending]
        torch._foreach_lerp_(rows, targets, norms[0].alpha)

    @classmethod
    def gather_all(cls, norms: Sequence[Self], group: Group) -> None:
        """Exact, since each row of a history has one owner."""
        owned = [torch.zeros_like(norm.history) for norm in norms]
        for norm, rows in zip(norms, owned, strict=True):
            rows[norm.shards.mine.start : norm.shards.mine.stop] = norm.rows(norm.shards.mine)
        flat = group.sum(torch.cat([rows.flatten() for rows in owned]))
        for norm, rows in zip(norms, flat.split([norm.history.numel() for norm in norms]), strict=True):
            norm.history.copy_(rows.view_as(norm.history))


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
        count = total * norm.pending[-1].count
        alike = norm.corrected(whole, count)[:, None].expand(-1, total, -1, -1)
        norm.pending = [Pending(range(total), alike, count)]
