"""No norm: the identity, in the place where another kind would normalise."""

from typing import ClassVar

from torch import Tensor

from trainables.networks.norms.base_sample import SampleNorm


class NoNorm(SampleNorm):
    """The identity, without weights. A ResNet without norms may diverge: lower the learning rate, or warm it up."""

    BATCH_STATISTICS: ClassVar[bool] = False
    IDENTITY: ClassVar[bool] = True

    def register_weights(self, channels: int) -> None:
        """There are none."""

    def forward(self, x: Tensor) -> Tensor:
        return x
