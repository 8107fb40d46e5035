"""Offline linear protocol: a linear classifier of frozen features, trained by SGD, in the recipe of each paper."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import AfterValidator, Field

from trainables.config.base import Direction
from trainables.config.sections import Count, Epochs, LearningRate, NonNegative, Positive, Share
from trainables.evaluation.protocols.base import Protocol
from trainables.evaluation.scores import Scores

if TYPE_CHECKING:
    from torch import Tensor, nn

    from trainables.evaluation.subject import Features, Subject


def _rising(scale: tuple[float, float] | None) -> tuple[float, float] | None:
    if scale is not None and not 0 < scale[0] <= scale[1]:
        raise ValueError("must be two rising numbers above 0")
    return scale


CropScale = Annotated[tuple[Share, Share] | None, AfterValidator(_rising)]
PAPER: dict[str, Any] = {
    "standardise": False,
    "init": 0.01,
    "augment": True,
    "crop_scale": [0.08, 1.0],
    "every_epochs": 10,
}
STEP_LR: dict[str, Any] = {"kind": "step", "milestones": ["60 epochs", "80 epochs"], "factor": 0.1}
SOLO = {
    "byol": 0.3,
    "dino": 0.3,
    "ressl": 3.0,
    "moco": 3.0,
    "simclr": 1.0,
    "simsiam": 30.0,
}  # solo-learn's rates, by method

RECIPES: dict[str, dict[str, Any]] = {
    "momentum2": {**PAPER, "norm": "logits", "epochs": 80, "lr": 0.2, "base_batch": 256},
    "momentum2-stl10": {**PAPER, "norm": "logits", "epochs": 80, "lr": 0.5, "base_batch": 256},
    "moco": {**PAPER, "norm": "logits", "lr": {**STEP_LR, "base": 30}, "base_batch": 256},
    "eman": {**PAPER, "lr": {**STEP_LR, "base": 30}},
    "eman-few": {**PAPER, "epochs": 50, "lr": {**STEP_LR, "milestones": ["30 epochs", "40 epochs"], "base": 30}},
    "lightly": {**PAPER, "epochs": 90, "lr": 0.1, "base_batch": 256},
    **{f"solo-{method}": {**PAPER, "lr": {**STEP_LR, "base": lr}, "base_batch": 256} for method, lr in SOLO.items()},
}


class Trained(NamedTuple):
    """A classifier of raw features after the last epoch, and the scores after each measured epoch."""

    classifier: nn.Linear
    curve: dict[int, Scores]


class Rate(LearningRate):
    """Learning rate of the classifier."""

    base: Positive = 0.1


class Linear(Protocol):
    """`epochs` of SGD on a linear classifier, with batches of `batch_size`, or of all images that have labels if fewer.

    `lr` is the rate for `base_batch`, or for the batch itself without one. Features are computed once, un-augmented.
    With `augment` they are computed in each epoch, from images that are flipped, and cropped by `crop_scale` or else as
    in the trial's views. With `standardise`, un-augmented features have mean 0 and variance 1. The classifier starts at
    N(0, `init`²) with a bias of 0. `norm` puts a batch norm without weights before the classifier ("features"), or one
    with weights after it ("logits").

    linear_top1 and linear_top5 are scores after the last epoch. linear_best_top1 is the best score, measured every
    `every_epochs` epochs and at the end. Many papers report it; it is chosen on the very split that it is measured on.

    recipe: momentum2 and momentum2-stl10 (Momentum² Teacher; Spatial Ensemble's BYOL), moco (Spatial Ensemble's for
        MoCo), eman and eman-few (for few labels), lightly, and solo-<method> (solo-learn).
    """

    recipe: Annotated[str, Field(json_schema_extra={"enum": list(RECIPES)})] | None = None
    """A paper's settings; what is set beside it counts above it."""
    epochs: Epochs = 100
    """Epochs of SGD on the classifier."""
    batch_size: Count = 256
    """Images of a step; all that have labels if there are fewer."""
    base_batch: Count | None = None
    """The batch that lr is written for; without it, lr is the rate for batch_size."""
    lr: Rate = Rate()
    momentum: Share = 0.9
    """Momentum of SGD."""
    weight_decay: NonNegative = 0.0
    """L2 decay of the classifier."""
    standardise: bool = True
    """Whether features are standardised, by mean and variance of the un-augmented training images."""
    norm: Literal["none", "features", "logits"] = "none"
    """A batch norm without weights before the classifier (features), or one with weights after it (logits)."""
    init: NonNegative = 0.0
    """Standard deviation of the classifier's first weights; its bias starts at 0."""
    augment: bool = False
    """Whether features are computed in each epoch, from images that are cropped and flipped."""
    crop_scale: CropScale = None
    """Range of a crop's area; that of the trial's views if it is not set."""
    every_epochs: Epochs = 10
    """Epochs between the scores for linear_best_top1, which is chosen on the very split that it is measured on."""

    METRICS: ClassVar[dict[str, Direction]] = {
        "linear_top1": "max",
        "linear_top5": "max",
        "linear_best_top1": "max",
    }
    RECIPES: ClassVar[dict[str, dict[str, Any]]] = RECIPES

    def measure(self, subject: Subject) -> Scores:
        curve = self.trained(subject).curve
        return curve[max(curve)] | {"linear_best_top1": max(scores["linear_top1"] for scores in curve.values())}

    def trained(self, subject: Subject) -> Trained:
        """Returns the classifier of a subject's features. Collective on the first call."""

        def augmented(epoch: int) -> Tensor:
            return subject.encode(
                subject.train, subject.labelled, view=subject.cropped(self.crop_scale, "linear", epoch)
            )

        def make() -> Trained:
            views = augmented if self.augment else None
            return self.train(subject.bank(), subject.queries(), subject.classes, subject.config.seed, views)

        return subject.once(("linear", self.model_dump_json()), make)

    def train(
        self,
        bank: Features,
        queries: Features,
        classes: int,
        seed: int = 0,
        augmented: Callable[[int], Tensor] | None = None,
    ) -> Trained:
        """Trains on a bank and measures on queries.

        Args:
            bank: un-augmented features, and their labels.
            queries: features that are scored.
            classes: how many classes there are.
            seed: of the first weights and of the order.
            augmented: returns the bank's features of an epoch, where each epoch has its own.
        """
        import torch

        from trainables.data import keyed, progress
        from trainables.evaluation.sgd import measured_epochs
        from trainables.evaluation.subject import hits

        mean, std = bank.x.mean(0), bank.x.std(0).clamp(min=1e-6)
        if not self.standardise:
            mean, std = torch.zeros_like(mean), torch.ones_like(std)
        head = self._head(bank.x.shape[1], classes, seed).to(bank.x.device)
        count, plain = len(bank.labels), (bank.x - mean) / std

        def batches(epoch: int, size: int) -> Iterator[tuple[Tensor, Tensor]]:
            x = plain if augmented is None else (augmented(epoch) - mean) / std
            order = keyed.permutation(count, seed, epoch, "linear").to(x.device)
            for index in progress.steps("batches", order[: count // size * size].split(size)):
                yield head(x[index]), bank.labels[index]

        groups = [{"params": list(head.parameters()), "factor": 1.0}]
        curve = {}
        for epoch in measured_epochs(self, groups, count, batches, "epochs of the linear classifier"):
            classifier = folded(head, mean, std)
            with torch.no_grad():
                curve[epoch] = hits("linear", classifier(queries.x), queries.labels)
        return Trained(classifier, curve)

    def _head(self, inputs: int, classes: int, seed: int) -> nn.Sequential:
        """Returns the classifier with its norm, in training mode."""
        from torch import nn

        layer = first_classifier(inputs, classes, self.init, seed, "linear")
        if self.norm == "features":
            return nn.Sequential(nn.BatchNorm1d(inputs, affine=False), layer)
        return nn.Sequential(layer, nn.BatchNorm1d(classes)) if self.norm == "logits" else nn.Sequential(layer)


def first_classifier(inputs: int, classes: int, init: float, *key: int | str) -> nn.Linear:
    """Returns a linear layer with weights drawn from N(0, init²) by a key, and a bias of 0."""
    import torch
    from torch import nn

    from trainables.data import keyed

    layer = nn.utils.skip_init(nn.Linear, inputs, classes)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=keyed.generator(*key, "classifier")).mul_(init))
        layer.bias.zero_()
    return layer


def folded(head: nn.Sequential, mean: Tensor, std: Tensor) -> nn.Linear:
    """Returns a linear layer that maps raw features x as the head in evaluation mode maps (x - mean) / std.

    It is computed in float64, because terms that cancel are large where spreads are far from 1.
    """
    import torch
    from torch import nn

    head = copy.deepcopy(head).double().eval()
    with torch.no_grad():
        base = head((-mean.double() / std)[None])
        weight = head(torch.diag(1 / std.double()) - mean.double() / std) - base  # a row for each feature
        layer = nn.utils.skip_init(nn.Linear, len(weight), weight.shape[1], device=mean.device)
        layer.weight.copy_(weight.T)
        layer.bias.copy_(base[0])
    return layer


def frozen_probe(subject: Subject) -> nn.Linear:
    """Returns the classifier that the trial's linear protocol trains for a subject. Collective on the first call."""
    protocol = subject.config.evaluation.protocol("linear")
    assert isinstance(protocol, Linear)
    return protocol.trained(subject).classifier
