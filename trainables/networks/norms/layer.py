"""Layer norm: statistics of a sample over all its channels and positions (Ba et al. 2016)."""

from typing import ClassVar

from trainables.networks.norms.group import GroupNorm


class LayerNorm(GroupNorm):
    """Layer norm: of vectors torch's LayerNorm, of maps a GroupNorm of one group. Each channel has its weight."""

    BATCH_STATISTICS: ClassVar[bool] = False

    def count(self, positions: int) -> int:
        """Returns 1: a group has all channels."""
        return 1
