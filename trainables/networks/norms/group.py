"""Group norm: statistics of a sample over groups of channels (Wu and He 2018)."""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from trainables.config.encoder import StudentNorm
from trainables.config.norms import NormOptions
from trainables.networks.norms.base import EPS
from trainables.networks.norms.base_sample import SampleNorm

LEAST_OF_MAPS, LEAST_OF_VECTORS = 2, 8  # channels of a group


class GroupNorm(SampleNorm):
    """Group norm of maps and of vectors, computed at least in float32.

    The number of groups divides the channels and is at most `groups`. A group has at least 2 channels of maps, as of
    64 channels in 32 groups, and at least 8 numbers of a vector: of one number nothing would be left, and of two only
    which is the larger.
    """

    BATCH_STATISTICS: ClassVar[bool] = False

    groups = 32

    def configure(self, config: NormOptions) -> None:
        if isinstance(config, StudentNorm):  # a teacher's norm has the groups of the student's
            self.groups = config.groups

    def count(self, least: int) -> int:
        """Returns the number of groups that have `least` channels or more; 1 where there are fewer channels."""
        most = max(1, min(self.groups, self.channels // least))
        return next(count for count in range(most, 0, -1) if self.channels % count == 0)

    def forward(self, x: Tensor) -> Tensor:
        count = self.count(LEAST_OF_VECTORS if x.ndim == 2 else LEAST_OF_MAPS)
        return F.group_norm(x.to(self.weight.dtype), count, self.weight, self.bias, EPS).to(x.dtype)
