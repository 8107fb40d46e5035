"""The trials that all contenders train: a small table of teachers, as nested plain values."""

from dataclasses import dataclass
from typing import Any

from trainables.config import trial as c

SEED = 0
IMAGES = 1280  # training images, whole batches of them: an epoch has no rest
BASE: dict[str, Any] = {
    "data": {"name": "digits", "train_images": IMAGES},
    "encoder": {"name": "resnet18", "width": 16, "projector": {"hidden": 256, "out": 64}},
    "method": {"name": "byol", "predictor_hidden": 256},
    "optim": {"name": "sgd", "lr": {"base": 0.05, "warmup": "1 epoch"}, "weight_decay": 1.0e-4},
    "train": {"batch_size": 128, "shard_size": 32},
}


@dataclass(frozen=True)
class Trials:
    """The table of points, each trained once.

    Attributes:
        count: number of points; they differ in the momentum of the teacher.
        epochs: of each.
    """

    count: int
    epochs: int

    @property
    def base(self) -> dict[str, Any]:
        """What all trials have in common."""
        return {**BASE, "train": {**BASE["train"], "epochs": self.epochs}}

    @property
    def points(self) -> dict[str, dict[str, Any]]:
        """What a trial changes of `base`, by its label."""
        momenta = [round(0.9 + 0.09 * point / max(1, self.count - 1), 4) for point in range(self.count)]
        return {
            f"{momentum:.3f}": {"teacher.momentum": {"kind": "cosine", "base": momentum, "final": 1.0}}
            for momentum in momenta
        }

    @property
    def configs(self) -> dict[str, dict[str, Any]]:
        """The whole configuration of each trial, by its label."""
        return {label: c.changed(self.base, {**point, "seed": SEED}).plain() for label, point in self.points.items()}

    def search(self, resources: dict[str, Any]) -> dict[str, Any]:
        """The search of `tuner launch` over the same trials."""
        return {
            "name": "elastic",
            "points": self.points,
            "seeds": 1,
            "trial": {**self.base, "seed": SEED},
            "resources": resources,
        }

    @property
    def images(self) -> int:
        """Training images of all trials."""
        return self.count * self.epochs * IMAGES
