"""EMAN: the teacher normalises with moving averages of the student's running statistics (Cai et al. 2021)."""

from typing import ClassVar

from torch import Tensor

from trainables.networks.norms.base import Norm


class EmanNorm(Norm):
    """Normalises every sample with the running statistics, in training too. The Teacher does the averaging."""

    OF_STUDENT: ClassVar[bool] = False
    FOLLOWS_STUDENT: ClassVar[bool] = True

    def normalise_batch(self, x: Tensor) -> Tensor:
        return self.affine(x, *self.evaluation_statistics())
