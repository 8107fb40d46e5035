"""What a protocol scores: a network, the images that it learns from, the images that it is scored on, and features."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from trainables.config import trial as c
from trainables.data import augment, progress
from trainables.data import images as data
from trainables.data.pictures import Pictures
from trainables.evaluation.scores import Output, Scores
from trainables.networks.encoders import backbone_of, run_parts
from trainables.networks.group import Group
from trainables.networks.modes import in_evaluation_mode

Made = TypeVar("Made")
View = Callable[[Pictures, Tensor], Tensor]
"""Pictures of n images and their indices [n] in the split -> what the network takes, [n, C, H, W]."""


@dataclass(frozen=True)
class Features:
    """Features [N, F] in float32 and labels int64 [N], on one device."""

    x: Tensor
    labels: Tensor


@torch.no_grad()
def encode(
    network: nn.ModuleDict, images: data.Images, index: Tensor, batch_size: int, group: Group, view: View | None = None
) -> Tensor:
    """Returns a network's outputs for images in evaluation mode: [len(index), F] in float32.

    Collective: the workers share the work, and all get the result.

    Args:
        network: parts, run one after another.
        images: a split.
        index: int64, of the images in the split.
        batch_size: of a forward pass.
        group: the workers.
        view: makes the network's input; None means the un-augmented images, standardised.
    """
    # a batch is one worker's as a whole: its shape, and with it all rounding, does not depend on the number of workers
    batches = index.split(batch_size)
    dtype = next(network.parameters()).dtype

    def forward(samples: Tensor) -> Tensor:
        if view is None:
            x = augment.standardise(images.batch(samples, group.device, dtype))
        else:
            x = view(images.pictures(samples, group.device, dtype), samples)
        return run_parts(network, x).float()

    mine = group.share(len(batches))
    coming = index[mine.start * batch_size : mine.stop * batch_size]
    images.expect(coming, 2 * batch_size, cropped=view is not None)
    with in_evaluation_mode(network):
        rows = [forward(batches[batch]) for batch in progress.steps("batches of features", mine)] or [
            forward(index[:1])[:0]
        ]
    bounds = list(accumulate(group.split(len(batches)), initial=0))
    counts = [sum(len(batch) for batch in batches[first:last]) for first, last in pairwise(bounds)]
    return group.join(torch.cat(rows), counts)


def hits(name: str, logits: Tensor, labels: Tensor) -> Scores:
    """Returns {name_top1, name_top5}: shares of samples whose label has the largest logit, or one of the five largest.

    Args:
        name: of the protocol.
        logits: [N, classes].
        labels: int64 [N].
    """
    ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
    return {f"{name}_top1": int(ranked[:, 0].sum()) / len(labels), f"{name}_top5": int(ranked.sum()) / len(labels)}


class Subject:
    """A network that is judged. What several protocols need is computed once.

    Args:
        parts: of the network.
        config: of the trial.
        train: the images that protocols learn from. They use only the labels that `data.labels` chooses.
        scored: the images that scores are measured on.
        group: the workers.
        probe: the trial's online probe, if it has one.
    """

    def __init__(
        self,
        parts: nn.ModuleDict,
        config: c.TrialConfig,
        train: data.Images,
        scored: data.Images,
        group: Group,
        probe: nn.Linear | None = None,
    ):
        self.parts, self.config, self.train, self.scored, self.group, self.probe = (
            parts,
            config,
            train,
            scored,
            group,
            probe,
        )
        wanted = config.data.labels
        self.labelled = (train.labels >= 0).nonzero()[:, 0] if wanted.everything else data.labelled(train, wanted)
        self.classes = int(train.labels.max()) + 1
        self._made: dict[Hashable, Any] = {}

    def once(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """Returns what `make` returned on the first call with this key."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def network(self, output: Output = "features") -> nn.ModuleDict:
        """Returns the parts up to the configured features, or up to the projections."""
        return (
            backbone_of(self.parts, not self.config.evaluation.before_feature_norm)
            if output == "features"
            else self.parts
        )

    def encode(
        self, images: data.Images, index: Tensor, output: Output = "features", view: View | None = None
    ) -> Tensor:
        """Returns features or projections of images. Collective."""
        return encode(self.network(output), images, index, self.config.evaluation.batch_size, self.group, view)

    def bank(self, output: Output = "features") -> Features:
        """Returns the un-augmented features of training images with labels. Collective on the first call."""
        return self.once(("bank", output), lambda: self._features(self.train, self.labelled, output))

    def queries(self, output: Output = "features") -> Features:
        """Returns the un-augmented features of the scored images. Collective on the first call."""
        return self.once(
            ("queries", output), lambda: self._features(self.scored, torch.arange(len(self.scored)), output)
        )

    def _features(self, images: data.Images, index: Tensor, output: Output) -> Features:
        return Features(self.encode(images, index, output), images.labels[index].to(self.group.device))

    def cropped(self, crop_scale: tuple[float, float] | None, *key: int | str) -> View:
        """Returns what makes views that are only cropped and flipped, keyed by `key` and image.

        They are those of the trial's `views`, with another `crop_scale` if it is set.
        """
        config = self.config.views.model_copy(update={} if crop_scale is None else {"crop_scale": crop_scale})
        return lambda images, samples: augment.view(images, samples, 0, "weak", config, self.config.seed, *key)
