"""Group norm: statistics of a sample over groups of channels (Wu and He 2018)."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.config.encoder import StudentNorm
from trainables.config.norms import NormOptions
from trainables.networks.norms.base import EPS
from trainables.networks.norms.base_sample import SampleNorm


class GroupNorm(SampleNorm):
    """Group norm of maps and of vectors, computed at least in float32.

    `groups` is the most groups that there are. Their number divides the channels and leaves each at least two, since a
    vector's group of one channel would be 0 whatever the sample.
    """

    BATCH_STATISTICS: ClassVar[bool] = False

    groups = 32

    def configure(self, config: NormOptions) -> None:
        if isinstance(config, StudentNorm):  # a teacher's norm has the groups of the student's
            self.groups = config.groups

    @property
    def count(self) -> int:
        """The largest divisor of the channels that is at most `groups` and at most half of them; 1 of one channel."""
        most = max(1, min(self.groups, self.channels // 2))
        return next(count for count in range(most, 0, -1) if self.channels % count == 0)

    def forward(self, x: Tensor) -> Tensor:
        normalised = F.group_norm(x.to(self.weight.dtype), self.count, self.weight, self.bias, EPS)
        return normalised.to(x.dtype)

    @torch.no_grad()
    def plain(self) -> nn.Module:
        norm = nn.GroupNorm(self.count, self.channels, eps=EPS).to(self.weight)
        for target, source in zip(norm.parameters(), self.parameters(), strict=True):
            target.copy_(source)
        return norm
