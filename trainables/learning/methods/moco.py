"""MoCo v2: the student's query finds the teacher's key of the other view among past keys (He et al. 2020, eq. 1).

`symmetric` is v2+: each view is query and key, with a queue for each view, and the loss is the mean over both views.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from trainables.data.pieces import Sight
from trainables.learning.methods.base import Pass, QueueMethod, Temperature, sights

if TYPE_CHECKING:
    from torch import Tensor


class MoCo(QueueMethod):
    """InfoNCE over 1 + `queue` keys."""

    name: Literal["moco"] = "moco"
    temperature: Temperature = Temperature(base=0.2)
    symmetric: bool = False
    """Whether both views are queries, with a queue for each (v2+)."""

    DEFAULTS: ClassVar[dict[str, Any]] = {"encoder.projector": {"hidden": 2048, "out": 128, "norm": "none"}}

    @property
    def student_sights(self) -> tuple[Sight, ...]:
        return sights((0, 1) if self.symmetric else (0,))

    @property
    def teacher_sights(self) -> tuple[Sight, ...]:
        return sights((0, 1) if self.symmetric else (1,))

    def loss(self, outputs: Pass) -> Tensor:
        import torch
        import torch.nn.functional as F

        queries, keys = F.normalize(outputs.predictions, dim=-1), F.normalize(outputs.targets, dim=-1)
        keys, negatives = keys.flip(0), outputs.state["queue"].to(queries.dtype).flip(0)  # of the other view
        positive = (queries * keys).sum(-1, keepdim=True)
        logits = torch.cat([positive, queries @ negatives.transpose(1, 2)], dim=-1) / outputs.at(self.temperature)
        return -F.log_softmax(logits, dim=-1)[..., 0].mean(0)
