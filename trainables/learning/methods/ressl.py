"""ReSSL: the student's similarities to past keys follow the teacher's, sharper ones (Zheng et al. 2021, eq. 4-6)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from trainables.config.base import ViewKind
from trainables.data.pieces import Sight
from trainables.learning.methods.base import Pass, QueueMethod, Temperature, sights

if TYPE_CHECKING:
    from torch import Tensor


class ReSSL(QueueMethod):
    """Cross entropy between softmax(key . queue / `teacher_temperature`) and softmax(query . queue / `temperature`).

    The student's query is the first view, the teacher's key the second, which is only cropped and flipped. The queue
    holds no key of the samples themselves. The student may also see the second view, as in the library of the placement
    paper, which shows every view to student and probe: its norms and an online probe then learn from both, and the loss
    stays that of the first.
    """

    name: Literal["ressl"] = "ressl"
    temperature: Temperature = Temperature(base=0.1)
    teacher_temperature: Temperature = Temperature(base=0.04)
    student_views: Literal["first", "both"] = "first"
    """Which views the student sees: the first, whose loss it learns from, or the second too, for norms and probe."""

    VIEWS: ClassVar[tuple[ViewKind, ...]] = ("full", "weak")
    DEFAULTS: ClassVar[dict[str, Any]] = {"encoder.projector": {"hidden": 4096, "out": 256, "norm": "none"}}

    @property
    def student_sights(self) -> tuple[Sight, ...]:
        return sights((0,) if self.student_views == "first" else (0, 1))

    @property
    def teacher_sights(self) -> tuple[Sight, ...]:
        return sights((1,))

    def loss(self, outputs: Pass) -> Tensor:
        import torch.nn.functional as F

        query, (key,) = F.normalize(outputs.predictions[0], dim=-1), F.normalize(outputs.targets, dim=-1)
        past = outputs.state["queue"][0].to(query.dtype).T
        target = F.softmax(key @ past / outputs.at(self.teacher_temperature), dim=-1)
        return -(target * F.log_softmax(query @ past / outputs.at(self.temperature), dim=-1)).sum(-1)
