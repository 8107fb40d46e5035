"""Fine-tuning: a copy of the backbone and a classifier learn from labelled images, 1 % or 10 % of all in the papers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from trainables.config.base import Direction
from trainables.config.sections import Count, Epochs, LearningRate, NonNegative, Positive, Share
from trainables.evaluation.protocols.base import Protocol
from trainables.evaluation.protocols.linear import CropScale, first_classifier
from trainables.evaluation.scores import Scores

if TYPE_CHECKING:
    from torch import Tensor, nn

    from trainables.evaluation.subject import Subject

PAPER: dict[str, Any] = {"crop_scale": [0.08, 1.0]}
EMAN_STEP_LR: dict[str, Any] = {"kind": "step", "milestones": ["30 epochs", "40 epochs"], "factor": 0.1, "base": 0.001}
RECIPES: dict[str, dict[str, Any]] = {
    "momentum2": {**PAPER, "epochs": 20, "batch_size": 1024, "base_batch": None, "lr": 0.08, "reestimate": True},
    "momentum2-10": {**PAPER, "epochs": 15, "batch_size": 1024, "base_batch": None, "lr": 0.08, "reestimate": True},
    "eman": {
        **PAPER,
        "epochs": 50,
        "batch_size": 256,
        "base_batch": None,
        "lr": EMAN_STEP_LR,
        "classifier_factor": 100.0,
        "weight_decay": 1e-4,
    },
    "lightly": {**PAPER, "epochs": 30, "batch_size": 256, "base_batch": 256, "lr": 0.05},
}


class Rate(LearningRate):
    """Learning rate of the backbone."""

    base: Positive = 0.2


class Finetune(Protocol):
    """`epochs` of SGD on all layers of a copy, with batches of `batch_size`, or of all images that have labels if
    fewer.

    Images are flipped, and cropped by `crop_scale` or else as in the trial's views. `lr` is the backbone's rate for
    `base_batch`, or for the batch itself without one. The classifier starts at N(0, `init`²) and has
    `classifier_factor` times that rate. Norms are plain batch norms over the batch. Their running statistics continue
    from those that an evaluation uses; with `reestimate` they are computed again at the end, as means over the batches
    of one more epoch.

    Every worker does all of the work, so one worker is enough. finetune_top1 and finetune_top5 are scores after the
    last epoch. finetune_best_top1 is the best score, measured every `every_epochs` epochs and at the end; it is chosen
    on the very split that it is measured on.

    recipe: momentum2 and momentum2-10 (Momentum² Teacher, 1 % and 10 % of the labels), eman, lightly.
    """

    recipe: Annotated[str, Field(json_schema_extra={"enum": list(RECIPES)})] | None = None
    """A paper's settings; what is set beside it counts above it."""
    epochs: Epochs = 30
    """Epochs of SGD on all layers."""
    batch_size: Count = 32
    """Images of a step; all that have labels if there are fewer."""
    base_batch: Count | None = 256
    """The batch that lr is written for; without it, lr is the rate for batch_size."""
    lr: Rate = Rate()
    classifier_factor: Positive = 1.0
    """The classifier's learning rate over the backbone's."""
    momentum: Share = 0.9
    """Momentum of SGD."""
    weight_decay: NonNegative = 0.0
    """L2 decay of all layers."""
    init: NonNegative = 0.01
    """Standard deviation of the classifier's first weights; its bias starts at 0."""
    crop_scale: CropScale = None
    """Range of a crop's area; that of the trial's views if it is not set."""
    reestimate: bool = False
    """Whether running statistics are computed again at the end, as means over the batches of one more epoch."""
    every_epochs: Epochs = 10
    """Epochs between the scores for finetune_best_top1, which is chosen on the very split that it is measured on."""

    METRICS: ClassVar[dict[str, Direction]] = {
        "finetune_top1": "max",
        "finetune_top5": "max",
        "finetune_best_top1": "max",
    }
    RECIPES: ClassVar[dict[str, dict[str, Any]]] = RECIPES

    def measure(self, subject: Subject) -> Scores:
        from torch import nn

        from trainables.networks.encoders import feature_width, plain

        backbone = plain(subject.network())
        width = feature_width(subject.parts)
        classifier = first_classifier(width, subject.classes, self.init, subject.config.seed, "finetune")
        first = next(backbone.parameters())
        network = nn.ModuleDict({"backbone": nn.Sequential(*backbone.children()), "classifier": classifier.to(first)})
        curve = list(self._train(network, subject))
        return curve[-1] | {"finetune_best_top1": max(scores["finetune_top1"] for scores in curve)}

    def _train(self, network: nn.ModuleDict, subject: Subject) -> Iterator[Scores]:
        """Trains a network in place and yields its scores after each measured epoch."""
        from torch.optim.swa_utils import update_bn

        from trainables.evaluation.sgd import measured_epochs
        from trainables.networks.encoders import run_parts

        count, device = len(subject.labelled), subject.group.device

        def batches(epoch: int, size: int) -> Iterator[tuple[Tensor, Tensor]]:
            network.train()
            for x, labels in self.batches(subject, size, epoch):
                yield run_parts(network, x), labels.to(device)

        factors = {"backbone": 1.0, "classifier": self.classifier_factor}
        groups = [{"params": list(network[part].parameters()), "factor": factor} for part, factor in factors.items()]
        for epoch in measured_epochs(self, groups, count, batches, "epochs of fine-tuning"):
            if epoch == self.epochs and self.reestimate:
                size = min(self.batch_size, count)
                update_bn((x for x, _ in self.batches(subject, size, self.epochs)), network["backbone"])
            yield self._score(network, subject)

    def batches(self, subject: Subject, size: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields augmented images and labels: the whole batches of an epoch, keyed by seed, epoch and image."""
        from trainables.data import keyed

        seed, dtype = subject.config.seed, next(subject.parts.parameters()).dtype
        order = subject.labelled[keyed.permutation(len(subject.labelled), seed, epoch, "finetune")]
        view = subject.cropped(self.crop_scale, "finetune", epoch)
        for index in order[: len(order) // size * size].split(size):
            yield view(subject.train.pictures(index, subject.group.device, dtype), index), subject.train.labels[index]

    def _score(self, network: nn.ModuleDict, subject: Subject) -> Scores:
        import torch

        from trainables.evaluation.subject import encode, hits
        from trainables.networks.group import Group

        every, alone = torch.arange(len(subject.scored)), Group(device=subject.group.device)
        logits = encode(network, subject.scored, every, subject.config.evaluation.batch_size, alone)
        return hits("finetune", logits, subject.scored.labels.to(logits.device))
