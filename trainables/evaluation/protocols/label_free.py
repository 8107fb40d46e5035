"""Scores without labels: effective ranks, alignment and uniformity of training images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from trainables.config.base import Direction
from trainables.config.sections import MOST
from trainables.evaluation.protocols.base import Protocol
from trainables.evaluation.scores import Output, Scores

if TYPE_CHECKING:
    from torch import Tensor

    from trainables.data.pictures import Pictures
    from trainables.evaluation.subject import Subject, View

Several = Annotated[int, Field(ge=2, le=MOST)]


class LabelFree(Protocol):
    """RankMe, LiDAR, alignment and uniformity of `images` training images, with or without labels.

    RankMe is computed from un-augmented images, LiDAR from `views` views of each, augmented as in training. Alignment
    is computed from the first two views, uniformity from the first. `output` says of what: the backbone's features, or
    the projections, for which both ranks were proposed.
    """

    images: Several = 1000
    """How many training images are used."""
    views: Several = 10
    """Augmented views of each image, for LiDAR."""
    output: Output = "features"
    """Whether features of the backbone or the projector's output are measured."""

    LABELS: ClassVar[bool] = False
    METRICS: ClassVar[dict[str, Direction]] = {
        "rankme": "max",
        "lidar": "max",
        "alignment": "min",
        "uniformity": "min",
    }

    def measure(self, subject: Subject) -> Scores:
        import torch

        from trainables.data import keyed, progress
        from trainables.learning import geometry

        index = keyed.permutation(len(subject.train), subject.config.seed, "label_free")[: self.images].sort().values
        plain = subject.encode(subject.train, index, self.output)
        numbers = progress.steps("views", range(self.views))
        views = torch.stack(
            [subject.encode(subject.train, index, self.output, _view(subject, number)) for number in numbers]
        )
        return {
            "rankme": geometry.effective_rank(plain),
            "lidar": geometry.lidar(views),
            "alignment": geometry.alignment(views[0], views[1]),
            "uniformity": geometry.uniformity(views[0]),
        }


def _view(subject: Subject, number: int) -> View:
    """Returns what makes a view as in training, under keys of its own."""
    from trainables.data import augment

    def make(pictures: Pictures, samples: Tensor) -> Tensor:
        return augment.view(pictures, samples, number, "full", subject.config.views, subject.config.seed, "label_free")

    return make
