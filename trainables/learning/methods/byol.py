"""BYOL: the student predicts the teacher's projection of the other view (Grill et al. 2020, eq. 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from trainables.config.sections import Width
from trainables.learning.methods.base import Method, Pass

if TYPE_CHECKING:
    from torch import Tensor

# the loss is a constant plus a factor times the sum of both cosines
SCALES = {"sum": (4.0, -2.0), "cosine": (0.0, -2.0), "mean": (0.0, -0.5)}


class BYOL(Method):
    """Cosines between the prediction of a view and the teacher's projection of the other, in both directions."""

    name: Literal["byol"] = "byol"
    predictor_hidden: Width = 4096
    """Units of the predictor's hidden layer."""
    convention: Literal["sum", "cosine", "mean"] = "sum"
    """Scale of the loss, to which learning rates are tied.

    sum: the sum of 2 - 2 cos over both directions, in [0, 8] (Momentum² Teacher, EMAN, solo-learn). cosine: the same
        without its constant (Lightly). mean: the mean of -cos (the placement paper).
    """

    @property
    def predictor(self) -> int:
        return self.predictor_hidden

    def loss(self, outputs: Pass) -> Tensor:
        import torch.nn.functional as F

        constant, factor = SCALES[self.convention]
        return constant + factor * F.cosine_similarity(outputs.predictions, outputs.targets.flip(0), dim=-1).sum(0)
