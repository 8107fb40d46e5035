"""What an evaluation looks at: a network, the images that it learns from and those that it is scored on; and their features."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from trainables.config import trial as c
from trainables.data import augment, progress
from trainables.data import images as data
from trainables.evaluation.scores import Output, Scores
from trainables.networks.encoders import backbone_of, run_parts
from trainables.networks.group import Group
from trainables.networks.modes import in_evaluation_mode

Made = TypeVar("Made")
View = Callable[[Tensor, Tensor], Tensor]
"""Images [n, C, H, W] in [0, 1] and their indices [n] in the split -> what the network takes."""


@dataclass(frozen=True)
class Features:
    """Features [N, F] in float32 and labels int64 [N], on one device."""

    x: Tensor
    labels: Tensor


@torch.no_grad()
def encode(
    network: nn.ModuleDict, images: data.Images, index: Tensor, batch_size: int, group: Group, view: View | None = None
) -> Tensor:
    """What a network returns for images in evaluation mode: [len(index), F] in float32. Collective: workers share the work, all get it.

    Args:
        network: parts, run one after another.
        images: a split.
        index: int64, of the images in the split.
        batch_size: of a forward.
        group: the workers.
        view: makes what the network takes; images as they are, standardised, where it is None.
    """
    # whole batches are dealt to the workers, so that the shape of a batch, and with it every rounding, does not depend on their number
    batches = index.split(batch_size)
    dtype = next(network.parameters()).dtype

    def forward(samples: Tensor) -> Tensor:
        x = images.batch(samples, group.device, dtype)
        return run_parts(network, augment.standardise(x) if view is None else view(x, samples)).float()

    mine = group.share(len(batches))
    images.expect(index[mine.start * batch_size : mine.stop * batch_size], 2 * batch_size)
    with in_evaluation_mode(network):
        rows = [forward(batches[batch]) for batch in progress.steps("batches of features", mine)] or [
            forward(index[:1])[:0]
        ]
    bounds = list(accumulate(group.split(len(batches)), initial=0))
    counts = [sum(len(batch) for batch in batches[first:last]) for first, last in pairwise(bounds)]
    return group.join(torch.cat(rows), counts)


def hits(name: str, logits: Tensor, labels: Tensor) -> Scores:
    """{name_top1, name_top5}: shares of samples in [0, 1] whose label has the largest logit, or one of the five largest.

    Args:
        name: of the protocol.
        logits: [N, classes].
        labels: int64 [N].
    """
    ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
    return {f"{name}_top1": int(ranked[:, 0].sum()) / len(labels), f"{name}_top5": int(ranked.sum()) / len(labels)}


class Subject:
    """A network that is judged. What several protocols need is made once.

    Args:
        parts: of the network.
        config: of the trial.
        train: the images that protocols learn from; from labels only where `data.labels` has them.
        scored: the images of the split that scores are of.
        group: the workers.
        probe: the online one, where the trial has one.
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
        """What `make` returned when this key was asked for first."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def network(self, output: Output = "features") -> nn.ModuleDict:
        """The parts up to the features that are configured, or up to the projections."""
        return (
            backbone_of(self.parts, not self.config.evaluation.before_feature_norm)
            if output == "features"
            else self.parts
        )

    def encode(
        self, images: data.Images, index: Tensor, output: Output = "features", view: View | None = None
    ) -> Tensor:
        """Features or projections of images. Collective."""
        return encode(self.network(output), images, index, self.config.evaluation.batch_size, self.group, view)

    def bank(self, output: Output = "features") -> Features:
        """Of the training images that have labels, un-augmented. Collective when asked for first."""
        return self.once(("bank", output), lambda: self._features(self.train, self.labelled, output))

    def queries(self, output: Output = "features") -> Features:
        """Of the images that are scored, un-augmented. Collective when asked for first."""
        return self.once(
            ("queries", output), lambda: self._features(self.scored, torch.arange(len(self.scored)), output)
        )

    def _features(self, images: data.Images, index: Tensor, output: Output) -> Features:
        return Features(self.encode(images, index, output), images.labels[index].to(self.group.device))

    def cropped(self, crop_scale: tuple[float, float] | None, *key: int | str) -> View:
        """Views that are only cropped and flipped, as the trial's `views` say, but for another `crop_scale`; keyed by `key` and image."""
        config = self.config.views.model_copy(update={} if crop_scale is None else {"crop_scale": crop_scale})
        return lambda images, samples: augment.view(images, samples, 0, "weak", config, self.config.seed, *key)
