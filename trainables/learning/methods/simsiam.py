"""SimSiam: the student predicts its own projection of the other view, behind a stop-gradient (Chen and He 2021, eq. 2).

With an averaged copy (`teacher.placement`) it is "SimSiam + EMA" of the placement paper: the student predicts the
copy's projections.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from trainables.config.sections import Width
from trainables.learning.methods.base import Method, Pass

if TYPE_CHECKING:
    from torch import Tensor


class SimSiam(Method):
    """Mean over both directions of -cos(prediction, projection), in [-1, 1]."""

    name: Literal["simsiam"] = "simsiam"
    predictor_hidden: Width = 512
    """Units of the predictor's hidden layer."""

    DEFAULTS: ClassVar[dict[str, Any]] = {
        "teacher.placement": "none",
        "encoder.projector": {"layers": 3, "hidden": 2048, "out": 2048, "norm": "all"},
    }

    @property
    def predictor(self) -> int:
        return self.predictor_hidden

    def loss(self, outputs: Pass) -> Tensor:
        import torch.nn.functional as F

        return -F.cosine_similarity(outputs.predictions, outputs.targets.flip(0), dim=-1).mean(0)
