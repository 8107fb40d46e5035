"""Batch normalisation whose statistics belong to shards, with one body for 1d and 2d inputs.

A training forward holds views, a view holds the shards of the forward's layout, a shard holds its samples: [view,
shard, sample]. Statistics are computed shard by shard, so a trial does not depend on how its shards are dealt to
workers. A forward changes no buffer: it leaves its statistics pending, and `commit` brings them in once all forwards of
the step are done (the lazy update of Momentum² Teacher, sec. 3.3).

A kind of norm is one file of this folder, found by its name: a subclass of `Norm`. `trainables.networks.norm_kinds`
collects them.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from trainables.config.norms import NormOptions
from trainables.networks.group import Group

EPS = 1e-5
RUNNING_SHARE = 0.1  # share of the current batch in running statistics, as in torch


@dataclass(frozen=True)
class Layout:
    """What lies along the batch dimension of a training forward: `samples` samples of each of the `shards`, by view."""

    shards: range
    samples: int


@dataclass(frozen=True)
class Shards:
    """The shards of a trial and those of this worker. All norms of a Learner share one object.

    Attributes:
        size: images of a shard.
        total: shards of the batch.
        mine: the shards of this worker.
        group: the workers; norms that look at the whole batch exchange statistics with them.
    """

    size: int
    total: int
    mine: range
    group: Group = field(default_factory=Group)

    @property
    def counts(self) -> list[int]:
        """Number of shards of each worker."""
        return self.group.split(self.total)

    def layout(self, shards: range | None = None, samples: int | None = None) -> Layout:
        """The layout of a forward.

        Args:
            shards: those that the forward is about; all shards of this worker by default.
            samples: of each shard; `size` by default. Methods may show more or fewer pictures than a shard has images.
        """
        return Layout(self.mine if shards is None else shards, self.size if samples is None else samples)

    def everyone(self, rows: Tensor) -> Tensor:
        """Joins the rows of all workers, with gradient. Collective.

        Args:
            rows: of this worker's samples, [V, samples, D], ordered by shard.

        Returns:
            [V, samples of all workers, D], ordered by shard.
        """
        of_a_shard = rows.shape[1] // len(self.mine)
        counts = [shards * of_a_shard for shards in self.counts]
        everything = self.group.gather(rows.transpose(0, 1), counts).transpose(0, 1)
        return everything.contiguous()  # so that sums over it go in one order for any number of workers

    def __deepcopy__(self, memo: object) -> Self:
        return self


class NoLayout(RuntimeError):
    """A training forward went through a norm that was given no layout, see `laid_out`."""


@dataclass(frozen=True)
class Pending:
    """Statistics of a step's forwards that wait for `commit`.

    Attributes:
        shards: those that the forwards were about.
        views: mean and variance by view and shard, [views, shards, 2, C].
        counts: numbers of a shard for each channel, by view: its samples times their positions.
    """

    shards: range
    views: Tensor
    counts: tuple[int, ...]


class PlainNorm(_BatchNorm):
    """torch's batch norm for 1d and 2d inputs."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass


class Norm(nn.Module):
    """What all kinds of norm have in common. Running statistics are shared by all shards and used in evaluation mode.

    Parameters: weight [C], bias [C]. Buffers: running_mean [C], running_var [C] (unbiased, as in torch). A kind without
    statistics of a batch is a `SampleNorm`, which has no buffers.

    The configuration reads the first three without importing the file, so that a file states what differs from here.

    WHOLE_BATCH: whether a forward needs all shards of a worker in one pass.
    BATCH_STATISTICS: whether it normalises with statistics of a batch. Without, a teacher has the student's kind.
    OF_STUDENT: whether a student may have it.
    IDENTITY: whether a forward returns its input itself, which an activation behind it must not overwrite.
    SHUFFLES: whether the teacher's samples change places across the shards of the batch for a forward.
    FOLLOWS_STUDENT: whether the Teacher averages the student's running statistics into this norm's.
    """

    WHOLE_BATCH: ClassVar[bool] = False
    BATCH_STATISTICS: ClassVar[bool] = True
    OF_STUDENT: ClassVar[bool] = True
    IDENTITY: ClassVar[bool] = False
    SHUFFLES: ClassVar[bool] = False
    FOLLOWS_STUDENT: ClassVar[bool] = False

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, shards: Shards):
        super().__init__()
        self.channels, self.shards = channels, shards
        self.register_weights(channels)
        self.register_statistics(channels)
        self.pending: list[Pending] = []  # empty between steps
        self._layout: Layout | None = None  # set by `laid_out` for one forward, None outside of it

    def register_weights(self, channels: int) -> None:
        """Registers the parameters."""
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def register_statistics(self, channels: int) -> None:
        """Registers the buffers that hold statistics."""
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def configure(self, config: NormOptions) -> None:
        """Takes the options of the student's norm or of the teacher's."""

    @torch.no_grad()
    def plain(self) -> nn.Module:
        """Returns torch's batch norm, with copies of the weights and of the statistics that an evaluation uses."""
        norm = PlainNorm(self.channels, eps=EPS, momentum=RUNNING_SHARE).to(self.weight)
        sources = (self.weight, self.bias, *self.evaluation_statistics())
        targets = (*norm.parameters(), *norm.buffers())
        for target, source in zip(targets, sources, strict=False):  # torch's counter of batches stays 0
            target.copy_(source)
        return norm

    def forward(self, x: Tensor) -> Tensor:
        return self.normalise_batch(x) if self.training else self.affine(x, *self.evaluation_statistics())

    def normalise_batch(self, x: Tensor) -> Tensor:
        """The forward in training mode, of a batch [views * shards * samples, C, ...]."""
        raise NotImplementedError

    def evaluation_statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and variance [C] that an evaluation uses."""
        return self.running_mean, self.running_var

    def take_statistics(self, mean: Tensor, var: Tensor) -> None:
        """Takes mean and variance [C], those of another network for example, as the statistics of every shard."""
        self.running_mean.copy_(mean)
        self.running_var.copy_(var)

    def affine(self, x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        """(x - mean) / sqrt(var + eps) * weight + bias, with given statistics [C]."""
        return F.batch_norm(x, mean, var, self.weight, self.bias, False, 0.0, EPS)

    @property
    def layout(self) -> Layout:
        """The layout of the forward that is running.

        Raises:
            NoLayout: the forward does not run inside `laid_out`.
        """
        if self._layout is None:
            raise NoLayout(
                "a norm in training mode must know the shards of its batch: run the forward inside `laid_out`, "
                "or put the network into evaluation mode"
            )
        return self._layout

    def by_shard(self, x: Tensor) -> tuple[Tensor, ...]:
        """The shards of a batch [views * shards * samples, C, ...], view by view."""
        shards, samples = len(self.layout.shards), self.layout.samples
        if len(x) % (shards * samples):
            raise ValueError(f"a training batch of {len(x)} is no multiple of {shards} shards of {samples}")
        return x.split(samples)

    def leave_pending(self, statistics: Tensor, count: int) -> None:
        """Keeps the statistics [views * shards, 2, C] of a forward for `commit`.

        Another forward of the same shards adds views.

        Args:
            statistics: by view and shard.
            count: numbers of a shard for each channel.
        """
        shards, views = self.layout.shards, statistics.unflatten(0, (-1, len(self.layout.shards)))
        counts = (count,) * len(views)
        if self.pending and self.pending[-1].shards == shards:
            before = self.pending.pop()
            views, counts = torch.cat([before.views, views]), before.counts + counts
        self.pending.append(Pending(shards, views, counts))

    def begin(self, alpha: float) -> None:
        """Opens a step. Drops what an aborted step left pending.

        Args:
            alpha: share of the current batch in the statistics of Momentum BN.
        """
        self.pending.clear()

    @classmethod
    def commit_all(cls, norms: Sequence[Self], group: Group) -> None:
        """Brings the pending statistics of norms of this kind into their buffers. Collective: all layers share one sum.

        Running statistics move once a view, as separate forwards would move them, towards the mean over all shards.
        That mean is summed in float64, so that it does not depend on the number of workers.
        """
        passes = zip(*(norm.pending for norm in norms), strict=True)
        sums = [
            torch.cat([layer.views.flatten(2) for layer in layers], dim=2).sum(1, dtype=torch.float64)
            for layers in passes
        ]
        flat = group.sum(torch.stack(sums).sum(0)) / norms[0].shards.total  # [views, 2 C of every layer]
        running = [buffer for norm in norms for buffer in (norm.running_mean, norm.running_var)]
        widths = [buffer.numel() for buffer in running]
        for view in flat.to(running[0].dtype):
            torch._foreach_lerp_(running, list(view.split(widths)), RUNNING_SHARE)

    @classmethod
    def gather_all(cls, norms: Sequence[Self], group: Group) -> None:
        """Makes the buffers of norms of this kind complete on every worker.

        Collective where a worker has a part of them only.
        """


@contextlib.contextmanager
def laid_out(norms: Sequence[Norm], layout: Layout) -> Iterator[None]:
    """Gives the norms of one forward its layout, and takes it away afterwards."""
    for norm in norms:
        object.__setattr__(norm, "_layout", layout)  # a tenth of the time of nn.Module's __setattr__
    try:
        yield
    finally:
        for norm in norms:
            object.__setattr__(norm, "_layout", None)


def norms_of(*modules: nn.Module) -> list[Norm]:
    """All norms in these modules, in the order of definition."""
    return [norm for module in modules for norm in module.modules() if isinstance(norm, Norm)]


def begin(norms: Sequence[Norm], alpha: float) -> None:
    """Opens a step for all norms, see `Norm.begin`."""
    for norm in norms:
        norm.begin(alpha)


@torch.no_grad()
def commit(norms: Sequence[Norm], group: Group) -> None:
    """Closes a step: brings all pending statistics into the buffers. Collective."""
    waiting = [norm for norm in norms if norm.pending]
    for kind, alike in _by_kind(waiting).items():
        kind.commit_all(alike, group)
    for norm in norms:
        norm.pending.clear()


@torch.no_grad()
def gather(norms: Sequence[Norm], group: Group) -> None:
    """Makes all buffers complete on every worker. Collective."""
    if group.size > 1:
        for kind, alike in _by_kind(norms).items():
            kind.gather_all(alike, group)


def _by_kind(norms: Sequence[Norm]) -> dict[type[Norm], list[Norm]]:
    kinds: dict[type[Norm], list[Norm]] = {}
    for norm in norms:
        kinds.setdefault(type(norm), []).append(norm)
    return kinds


@torch.no_grad()
def batch_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance [C] of one shard [N, C, ...], in one pass and at least in float32."""
    mean, var = torch.batch_norm_update_stats(
        x.float() if x.dtype in (torch.bfloat16, torch.float16) else x, None, None, 0.0
    )
    return mean, var


def normalise(x: Tensor, weight: Tensor, bias: Tensor, statistics: Tensor, saved: Tensor | None = None) -> Tensor:
    """Equal pieces of a batch, each normalised with its row of `statistics` [pieces, 2, C], into one output.

    With `saved` [pieces, 2, C] each piece is normalised with its own statistics instead. Both tensors then receive
    them, as torch's batch norm leaves them: `statistics` the means and unbiased variances, `saved` the means and
    1 / sqrt(biased variance + eps).
    """
    if not (
        x.is_contiguous()
        or x.is_contiguous(memory_format=torch.channels_last if x.ndim == 4 else torch.contiguous_format)
    ):
        x = x.contiguous()  # the kernel gives wrong statistics for a piece with gaps
    output, rows = torch.empty_like(x), torch.empty_like(statistics) if saved is None else saved
    pieces = zip(x.chunk(len(rows)), output.chunk(len(rows)), statistics.unbind(), rows.unbind(), strict=True)
    for piece, target, (mean, var), row in pieces:
        torch.ops.aten.native_batch_norm.out(
            piece,
            weight,
            bias,
            mean,
            var,
            saved is not None,
            1.0,  # the batch's own statistics replace what is in `statistics`
            EPS,
            out=target,
            save_mean=row[0],
            save_invstd=row[1],
        )
    return output
