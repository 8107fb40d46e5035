"""Norms of single samples: what the kinds without statistics of a batch have in common."""

import copy
from typing import ClassVar, Self

from torch import Tensor

from trainables.networks.norms.base import Norm


class SampleNorm(Norm):
    """A norm whose output for a sample depends on that sample alone, in an evaluation as in training.

    It has no buffers, leaves nothing pending, and needs no layout. A teacher has the student's kind, with averaged
    weights. Each file states BATCH_STATISTICS, because the configuration reads it there.
    """

    BATCH_STATISTICS: ClassVar[bool] = False

    def register_statistics(self, channels: int) -> None:
        """A sample's statistics last for one forward."""

    def forward(self, x: Tensor) -> Tensor:
        """A batch [N, C, ...] of the same shape, each sample by itself."""
        raise NotImplementedError

    def plain(self) -> Self:
        """Returns a copy: nothing of it belongs to shards."""
        return copy.deepcopy(self)
