"""Robustness: top-1 of a frozen classifier on 15 types of corruption in five severities (CIFAR-C, ImageNet-C)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from trainables.config.base import Direction
from trainables.config.errors import UserError, nearest
from trainables.config.sections import Seed
from trainables.evaluation.protocols.base import Protocol
from trainables.evaluation.scores import Scores

if TYPE_CHECKING:
    from torch import Tensor

    from trainables.data.images import Images
    from trainables.evaluation.subject import Subject
    from trainables.networks.group import Group

    Predict = Callable[[Tensor], Tensor]
    """Images [N, C, H, W] in [0, 1], not standardised, in float32 on the group's device -> scores [N, classes]."""


class Corruptions(Protocol):
    """Top-1 on corrupted images, by the head if it classifies, or else by the classifier of the linear protocol.

    That classifier is trained on clean features, with the options of the protocol `linear`. `levels` are CIFAR-C's or
    ImageNet-C's; `held_out` adds four types, which count in no mean. Corruptions are keyed by `seed` and the image, not
    by the trial's seed, so that checkpoints are compared on the same images.
    """

    levels: Literal["cifar", "imagenet"] = "cifar"
    """Whose severities: CIFAR-C's or ImageNet-C's."""
    held_out: bool = False
    """Whether the four held-out types are scored too; they count in no mean."""
    seed: Seed = 0
    """Seed of the corruptions; not the trial's, so that checkpoints are compared on the same images."""

    METRICS: ClassVar[dict[str, Direction]] = {"corruptions/mean": "max", "clean_top1": "max"}
    USES: ClassVar[tuple[str, ...]] = ("linear",)

    def measure(self, subject: Subject) -> Scores:
        from trainables.data import augment
        from trainables.evaluation.protocols.linear import frozen_probe
        from trainables.networks.encoders import run_parts
        from trainables.networks.modes import in_evaluation_mode

        classifies = subject.config.method.CLASSIFIES
        probe = None if classifies else frozen_probe(subject)
        network = subject.network("projections" if classifies else "features")
        dtype = next(network.parameters()).dtype

        def predict(images: Tensor) -> Tensor:
            output = run_parts(network, augment.standardise(images.to(dtype))).float()
            return output if probe is None else probe(output)

        size = subject.config.evaluation.batch_size
        with in_evaluation_mode(network):
            return evaluate(predict, subject.scored, size, subject.group, self.levels, self.seed, self.held_out)


def evaluate(
    predict: Predict,
    images: Images,
    batch_size: int,
    group: Group,
    levels: str = "cifar",
    seed: int = 0,
    held_out: bool = False,
) -> dict[str, float]:
    """Returns top-1 on clean images and on each cell of the table. Collective: the workers share the batches.

    Args:
        predict: the classifier. It is in evaluation mode, and the same on all workers.
        images: the split. An image's random numbers are keyed by its place in the split.
        batch_size: of the batches, each of which is one worker's.
        group: the workers.
        levels: "cifar" or "imagenet".
        seed: of the random numbers.
        held_out: whether the four held-out types are scored too; they count in no mean over types or severities.

    Returns:
        `clean_top1`; `corruptions/<type>/<severity>` for each cell and `corruptions/<type>`, its mean over severities;
        `corruptions/severity_<s>` and `corruptions/mean`, over the 15 types and over the 75 cells.

    Raises:
        UserError: there is no such table of levels, or the images are too small.
    """
    import torch

    from trainables.data import progress
    from trainables.evaluation.corruptions import catalogue

    kinds = catalogue.ALL + (catalogue.HELD_OUT if held_out else ())
    cells = [(kind, severity) for kind in kinds for severity in catalogue.SEVERITIES]
    right = torch.zeros(1 + len(cells), dtype=torch.int64, device=group.device)
    starts = range(0, len(images), batch_size)
    with torch.no_grad():
        mine = group.share(len(starts))
        for position, batch in enumerate(mine):
            index = torch.arange(starts[batch], min(starts[batch] + batch_size, len(images)))
            x, labels = images.batch(index, group.device, torch.float32), images.labels[index].to(group.device)
            right[0] += _right(predict(x), labels)
            for cell, (kind, severity) in enumerate(cells, start=1):
                progress.tell("corrupted batches", position * len(cells) + cell - 1, len(mine) * len(cells))
                right[cell] += _right(predict(catalogue.corrupt(x, index, kind, severity, levels, seed)), labels)
    clean, *shares = (group.sum(right).double() / len(images)).tolist()
    return {"clean_top1": clean, **_table(dict(zip(cells, shares, strict=True)), catalogue.ALL)}


def difference(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    """Returns the scores of `second` minus those of `first`, such as STS minus TMA (Spatial Ensemble, Fig. 5).

    Raises:
        UserError: they do not have the same cells.
    """
    if other := sorted(first.keys() ^ second.keys()):
        has, lacks = (first, second) if other[0] in first else (second, first)
        word = "first" if has is first else "second"
        raise UserError(f"{other[0]}: is a score of the {word} table alone{nearest(other[0], lacks)}")
    return {key: second[key] - first[key] for key in first}


def _right(scores: Tensor, labels: Tensor) -> Tensor:
    return (scores.argmax(1) == labels).sum()


def _table(cells: dict[tuple[str, int], float], standard: tuple[str, ...]) -> dict[str, float]:
    """Returns the cells and their means, by name. Means over types are of the `standard` ones."""

    def mean(chosen: list[tuple[str, int]]) -> float:
        return sum(cells[cell] for cell in chosen) / len(chosen)

    kinds, severities = (list(dict.fromkeys(cell[axis] for cell in cells)) for axis in (0, 1))
    counted = [cell for cell in cells if cell[0] in standard]
    return {
        "corruptions/mean": mean(counted),
        **{f"corruptions/severity_{s}": mean([cell for cell in counted if cell[1] == s]) for s in severities},
        **{f"corruptions/{kind}": mean([cell for cell in cells if cell[0] == kind]) for kind in kinds},
        **{f"corruptions/{kind}/{s}": share for (kind, s), share in cells.items()},
    }
