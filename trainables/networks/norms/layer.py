"""Layer norm: statistics of a sample over all its channels and positions (Ba et al. 2016)."""

from typing import ClassVar

from trainables.networks.norms.group import GroupNorm


class LayerNorm(GroupNorm):
    """Layer norm: of vectors torch's LayerNorm, of maps a GroupNorm of one group. Each channel has its weight.

    No width is refused, as group norm refuses none. Of a vector of two channels only a sign is left, which of them is
    the larger, and of one channel nothing. Hidden layers and outputs that are normalised need at least eight channels
    to keep more, the least that a group of group norm has where there are as many.
    """

    BATCH_STATISTICS: ClassVar[bool] = False

    def count(self, positions: int) -> int:
        """Returns 1: a group has all channels."""
        return 1
