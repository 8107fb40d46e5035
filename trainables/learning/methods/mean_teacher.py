"""Mean Teacher: the student's probabilities follow the teacher's of another view (Tarvainen and Valpola 2017)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from trainables.config.base import ViewKind
from trainables.config.durations import Length, steps_in
from trainables.config.sections import Count, Duration, NonNegative
from trainables.data.pieces import Piece, Sight
from trainables.learning.methods.base import LabelledMethod, Pass

if TYPE_CHECKING:
    from torch import Tensor

FIRST, SECOND = ((Piece("labelled", view), Piece("images", view)) for view in range(2))


class MeanTeacher(LabelledMethod):
    """Cross entropy of labelled images, divided by the number of all images, plus a consistency term.

    The consistency term is the mean squared difference of probabilities over all images and classes. Its weight rises
    to `consistency` during the `rampup` as exp(-5 (1 - t)^2). The teacher's keep-rate is that of a plain average until
    it reaches its momentum. Unlike in the released code, the teacher starts as an exact copy.
    """

    name: Literal["mean_teacher"] = "mean_teacher"
    images_per_label: Count = 3
    consistency: NonNegative = 100.0
    """Weight of the difference between the student's probabilities and the teacher's."""
    rampup: Duration = "20 %"
    """Duration of that weight's rise at the beginning, as exp(-5 (1 - t)^2)."""

    VIEWS: ClassVar[tuple[ViewKind, ...]] = ("weak", "weak")
    LABELLED_VIEWS: ClassVar[tuple[ViewKind, ...]] = ("weak", "weak")
    DEFAULTS: ClassVar[dict[str, Any]] = {
        "encoder.projector": {"layers": 1, "norm": "none"},
        "teacher.momentum": {"kind": "running_mean", "base": 0.999},
        "teacher.update": "after",
        "evaluation.network": "teacher",
        "evaluation.protocols": ["knn", "classifier"],
        "views": {"crop_scale": [1.0, 1.0], "crop_ratio": [1.0, 1.0], "shift": 0.125},
        "train": {"batch_size": 192, "shard_size": 192},
    }

    @property
    def student_sights(self) -> tuple[Sight, ...]:
        return (FIRST,)

    @property
    def teacher_sights(self) -> tuple[Sight, ...]:
        return (SECOND,)

    def durations(self) -> dict[str, str]:
        return super().durations() | {"rampup": self.rampup}

    def weight(self, step: int, run: Length) -> float:
        """Returns the weight of the consistency term in a step."""
        whole = steps_in(self.rampup, run)
        return self.consistency * math.exp(-5 * (1 - min(step / whole, 1)) ** 2) if whole else self.consistency

    def loss(self, outputs: Pass) -> Tensor:
        import torch.nn.functional as F

        assert outputs.labels is not None
        student = outputs.predictions[0].unflatten(0, (outputs.shards, -1))  # [shards, pictures, classes]
        other = outputs.targets[0].unflatten(0, (outputs.shards, -1))
        labels = outputs.labels.unflatten(0, (outputs.shards, -1))
        labelled = student[:, : labels.shape[1]]
        supervised = (
            F.cross_entropy(labelled.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels).sum(1)
            / student.shape[1]
        )
        difference = (student.softmax(-1) - other.softmax(-1)).square().mean((1, 2))
        return supervised + self.weight(outputs.step, outputs.run) * difference
