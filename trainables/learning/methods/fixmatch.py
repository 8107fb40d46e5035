"""FixMatch: what a network is sure of in a weak view is the label of the strong view (Sohn et al. 2020, eq. 2-4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from trainables.config.base import Trial, ViewKind
from trainables.config.sections import Count, NonNegative
from trainables.data.pieces import Piece, Sight
from trainables.learning.methods.base import LabelledMethod, Pass

if TYPE_CHECKING:
    from torch import Tensor

LABELLED, WEAK, STRONG = Piece("labelled", 0), Piece("images", 0), Piece("images", 1)


class FixMatch(LabelledMethod):
    """Cross entropy of labelled images, plus `weight` times that of images whose pseudo-label is sure enough.

    A pseudo-label counts if its probability is at least `threshold`; the mean is over all images, sure or not. All
    pictures of a shard that the student sees share norm statistics. Pseudo-labels come from the "student" itself
    (FixMatch, Spatial Ensemble), so that the teacher serves evaluation only, or from the "teacher" (EMAN).
    """

    name: Literal["fixmatch"] = "fixmatch"
    images_per_label: Count = 7
    threshold: NonNegative = 0.95
    """Probability that a pseudo-label has at least to count."""
    weight: NonNegative = 1.0
    """Weight of the loss of images without labels."""
    pseudo_labels: Literal["student", "teacher"] = "student"
    """Which network makes pseudo-labels: the student (FixMatch, Spatial Ensemble) or the teacher (EMAN)."""

    VIEWS: ClassVar[tuple[ViewKind, ...]] = ("weak", "strong")
    LABELLED_VIEWS: ClassVar[tuple[ViewKind, ...]] = ("weak",)
    DEFAULTS: ClassVar[dict[str, Any]] = {
        "encoder.projector": {"layers": 1, "norm": "none"},
        "teacher.momentum": 0.999,
        "teacher.update": "after",
        "teacher.norm.kind": "eman",
        "evaluation.network": "teacher",
        "evaluation.protocols": ["knn", "classifier"],
        "views": {"crop_scale": [1.0, 1.0], "crop_ratio": [1.0, 1.0], "shift": 0.125},
        "train": {"batch_size": 448, "shard_size": 448},
    }

    @property
    def student_sights(self) -> tuple[Sight, ...]:
        return ((LABELLED, WEAK, STRONG),) if self.pseudo_labels == "student" else ((LABELLED, STRONG),)

    @property
    def teacher_sights(self) -> tuple[Sight, ...]:
        return () if self.pseudo_labels == "student" else ((WEAK,),)

    def check(self, trial: Trial) -> None:
        super().check(trial)
        norm, needs_statistics = trial.teacher.norm.kind, trial.encoder.norm.batch_statistics
        if self.pseudo_labels == "student" and trial.teacher.placement and norm != "eman" and needs_statistics:
            why = "the teacher sees no training image, so that only eman gives it statistics"
            rule = f"with method.pseudo_labels = student {why}; pseudo_labels = teacher takes any"
            raise ValueError(f"teacher.norm.kind = {norm}: {rule}")

    def loss(self, outputs: Pass) -> Tensor:
        import torch.nn.functional as F

        assert outputs.labels is not None
        student = outputs.predictions[0].unflatten(0, (outputs.shards, -1))  # [shards, pictures, classes]
        labels = outputs.labels.unflatten(0, (outputs.shards, -1))
        count = labels.shape[1]
        supervised = (
            F.cross_entropy(student[:, :count].flatten(0, 1), labels.flatten(), reduction="none")
            .view_as(labels)
            .mean(1)
        )
        strong = student[:, count:]
        if self.pseudo_labels == "student":
            weak, strong = strong.chunk(2, dim=1)
        else:
            weak = outputs.targets[0].unflatten(0, (outputs.shards, -1))
        sure, pseudo = weak.softmax(-1).max(-1)
        each = F.cross_entropy(strong.flatten(0, 1), pseudo.flatten(), reduction="none").view_as(sure)
        return supervised + self.weight * (each * (sure >= self.threshold)).mean(1)
