"""Batch normalisation whose statistics belong to shards, with one body for 1d and 2d inputs.

A batch holds views, a view holds this worker's shards, a shard holds `size` samples: [view, shard, sample]. Statistics are computed
shard by shard in one forward, so a trial does not depend on how its shards are dealt to workers. A forward changes no state: it leaves
its statistics pending, and `commit` brings them in once the step's forwards are done (the lazy update of Momentum² Teacher, sec. 3.3).
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.group import Group

EPS = 1e-5
RUNNING_SHARE = 0.1  # share of the current batch in plain running statistics, as in torch


@dataclass(frozen=True)
class Shards:
    """The shards of a trial, and those of them that this worker holds."""

    size: int
    total: int
    mine: range


class Norm(nn.Module):
    """Plain batch norm per shard; running statistics are shared by all shards, for evaluation.

    Buffers: running_mean [C], running_var [C] (unbiased, as in torch). With one shard and one view it equals torch's BatchNorm.
    """

    def __init__(self, channels: int, shards: Shards):
        super().__init__()
        self.shards = shards
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.pending: list[Tensor] = []  # of this step's forwards: [views, my shards, 2, C]; empty between steps

    def forward(self, x: Tensor) -> Tensor:
        return self.normalise_batch(x) if self.training else self.affine(x, *self.evaluation_statistics())

    def evaluation_statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and variance [C] that an evaluation uses."""
        return self.running_mean, self.running_var

    def affine(self, x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        """(x - mean) / sqrt(var + eps) * weight + bias, with statistics [C] from elsewhere."""
        return F.batch_norm(x, mean, var, self.weight, self.bias, False, 0.0, EPS)

    def by_shard(self, x: Tensor) -> tuple[Tensor, ...]:
        """The shards of a batch [views * my shards * size, C, ...], view by view."""
        group = len(self.shards.mine) * self.shards.size
        if len(x) % group:
            raise ValueError(f"a training batch of {len(x)} is no multiple of this worker's {len(self.shards.mine)} shards of {self.shards.size}")
        return x.split(self.shards.size)

    def normalise_batch(self, x: Tensor) -> Tensor:
        shards = self.by_shard(x)
        found = torch.zeros(len(shards), 2, len(self.weight), dtype=self.weight.dtype, device=x.device)
        normalised = [
            F.batch_norm(shard, mean, var, self.weight, self.bias, True, 1.0, EPS)  # a share of 1 puts the batch's own statistics there
            for shard, (mean, var) in zip(shards, found.unbind(), strict=True)
        ]
        self.pending.append(found.unflatten(0, (-1, len(self.shards.mine))))
        return normalised[0] if len(normalised) == 1 else torch.cat(normalised)


class MomentumNorm(Norm):
    """Momentum BN: the teacher's statistics are blended with their own history (Momentum² Teacher, eq. 3, 5, 6 as resolved).

    Both views of a step see the same history and alpha: T_v = alpha s_v + (1 - alpha) S. `commit` then moves
    S <- alpha mean_v(s_v) + (1 - alpha) S. Variances are biased. Buffer: history [num_shards, 2, C], mean and variance of each shard;
    a worker's rows are true on that worker, `gather_history` makes them true on all.
    """

    def __init__(self, channels: int, shards: Shards):
        super().__init__(channels, shards)
        history = torch.stack([torch.zeros(channels), torch.ones(channels)])
        self.register_buffer("history", history.repeat(shards.total, 1, 1))
        del self.running_mean, self.running_var
        self.alpha = 1.0  # set for each step by `begin`

    def evaluation_statistics(self) -> tuple[Tensor, Tensor]:
        mean, var = self.history.mean(0).unbind()
        return mean, var

    @torch.no_grad()
    def normalise_batch(self, x: Tensor) -> Tensor:
        shards = self.by_shard(x)
        found = torch.stack([torch.stack(batch_statistics(shard)) for shard in shards]).to(self.history.dtype)
        found = found.unflatten(0, (-1, len(self.shards.mine)))
        blended = torch.lerp(self.my_history().expand_as(found), found, self.alpha).flatten(0, 1)
        self.pending.append(found)
        normalised = [self.affine(shard, mean, var) for shard, (mean, var) in zip(shards, blended.unbind(), strict=True)]
        return normalised[0] if len(normalised) == 1 else torch.cat(normalised)

    def my_history(self) -> Tensor:
        """The rows [my shards, 2, C] of this worker, as a view."""
        return self.history[self.shards.mine.start : self.shards.mine.stop]


class EmanNorm(Norm):
    """EMAN: always normalises with averages of the student's running statistics, sample by sample; the Teacher does the averaging."""

    def forward(self, x: Tensor) -> Tensor:
        return self.affine(x, *self.evaluation_statistics())


KINDS: dict[str, type[Norm]] = {"batch": Norm, "momentum": MomentumNorm, "eman": EmanNorm}


def batch_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance [C] of one shard [N, C, ...], in one pass and at least in float32."""
    mean, var = torch.batch_norm_update_stats(x.float() if x.dtype in (torch.bfloat16, torch.float16) else x, None, None, 0.0)
    return mean, var


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

    Plain norms move their running statistics once a view, as separate forwards would, towards the mean over all shards.
    """
    plain, momentum = [], []
    for norm in norms:
        if norm.pending:
            (momentum if isinstance(norm, MomentumNorm) else plain).append((norm, _taken(norm)))
    if momentum:
        rows = [norm.my_history() for norm, _ in momentum]
        torch._foreach_lerp_(rows, [found.mean(0) for _, found in momentum], momentum[0][0].alpha)
    if not plain:
        return
    widths = [found[0, 0].numel() for _, found in plain]
    flat = torch.cat([found.flatten(2) for _, found in plain], dim=2)  # [views, my shards, 2 C of every layer]
    flat = group.sum(flat.sum(1) / plain[0][0].shards.total)
    running = [buffer for norm, _ in plain for buffer in (norm.running_mean, norm.running_var)]
    for view in flat:
        halves = [half for part in view.split(widths) for half in part.chunk(2)]
        torch._foreach_lerp_(running, halves, RUNNING_SHARE)


def _taken(norm: Norm) -> Tensor:
    found = norm.pending[0] if len(norm.pending) == 1 else torch.cat(norm.pending)
    norm.pending.clear()
    return found


@torch.no_grad()
def gather_history(norms: Sequence[Norm], group: Group) -> None:
    """Makes every row of Momentum BN's history true on every worker. Collective; exact, since each row has one owner."""
    momentum = [norm for norm in norms if isinstance(norm, MomentumNorm)]
    if group.size == 1 or not momentum:
        return
    owned = [torch.zeros_like(norm.history) for norm in momentum]
    for norm, rows in zip(momentum, owned, strict=True):
        rows[norm.shards.mine.start : norm.shards.mine.stop] = norm.my_history()
    flat = group.sum(torch.cat([rows.flatten() for rows in owned]))
    for norm, rows in zip(momentum, flat.split([norm.history.numel() for norm in momentum]), strict=True):
        norm.history.copy_(rows.view_as(norm.history))
