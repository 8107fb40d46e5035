"""Group norm: statistics of a sample over groups of channels (Wu and He 2018)."""

import math
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from trainables.config.encoder import StudentNorm
from trainables.config.norms import NormOptions
from trainables.networks.norms.base import EPS
from trainables.networks.norms.base_sample import SampleNorm

LEAST_CHANNELS, LEAST_NUMBERS = 2, 8  # of a group


class GroupNorm(SampleNorm):
    """Group norm of maps and of vectors, computed at least in float32.

    The number of groups divides the channels and is at most `groups`. A group has at least two channels, as 64 channels
    have in 32 groups, and at least eight numbers, so that vectors and maps of few positions have fewer groups: of one
    number nothing would be left, and of two only which is the larger. Fewer than eight channels are not refused: a
    vector of them is one group.
    """

    BATCH_STATISTICS: ClassVar[bool] = False

    groups = 32

    def configure(self, config: NormOptions) -> None:
        if isinstance(config, StudentNorm):  # a teacher's norm has the groups of the student's
            self.groups = config.groups

    def count(self, positions: int) -> int:
        """Returns the number of groups of maps of some positions, 1 of a vector."""
        least = max(LEAST_CHANNELS, math.ceil(LEAST_NUMBERS / positions))
        most = max(1, min(self.groups, self.channels // least))
        return next(count for count in range(most, 0, -1) if self.channels % count == 0)

    def forward(self, x: Tensor) -> Tensor:
        count = self.count(math.prod(x.shape[2:]))
        return F.group_norm(x.to(self.weight.dtype), count, self.weight, self.bias, EPS).to(x.dtype)
