"""Robustness: top-1 of a frozen classifier on 15 types of corruption in five severities (the levels of CIFAR-C or ImageNet-C)."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from trainables import corruptions
from trainables.corruptions import SEVERITIES
from trainables.data import Images
from trainables.errors import UserError, nearest
from trainables.group import Group

Predict = Callable[[Tensor], Tensor]
"""From images [N, C, H, W] in [0, 1], not standardised, in float32 on the group's device, to the scores of classes [N, classes]."""


@torch.no_grad()
def evaluate(
    predict: Predict, images: Images, batch_size: int, group: Group, levels: str = "cifar", seed: int = 0, held_out: bool = False
) -> dict[str, float]:
    """Top-1 on the images as they are and on each cell of the table. Collective: the workers share the batches, and all get the result.

    Args:
        predict: what is scored; it has to be in evaluation mode, and to be the same on all workers.
        images: the split; an image's random numbers are keyed by its place in it.
        batch_size: of the batches, which are dealt to the workers as a whole.
        group: the workers.
        levels: "cifar" or "imagenet".
        seed: of the random numbers.
        held_out: score the four held-out types too; no mean over types or severities takes them in.

    Returns:
        `clean_top1`; `corruptions/<type>/<severity>` for each cell and `corruptions/<type>`, its mean over severities;
        `corruptions/severity_<s>` and `corruptions/mean`, over the 15 types and over the 75 cells.

    Raises:
        UserError: there is no such table of levels, or the images are too small.
    """
    kinds = corruptions.ALL + (corruptions.HELD_OUT if held_out else ())
    cells = [(kind, severity) for kind in kinds for severity in SEVERITIES]
    right = torch.zeros(1 + len(cells), dtype=torch.int64, device=group.device)
    starts = range(0, len(images), batch_size)
    for batch in group.share(len(starts)):
        index = torch.arange(starts[batch], min(starts[batch] + batch_size, len(images)))
        x, labels = images.batch(index, group.device, torch.float32), images.labels[index].to(group.device)
        right[0] += _right(predict(x), labels)
        for cell, (kind, severity) in enumerate(cells, start=1):
            right[cell] += _right(predict(corruptions.corrupt(x, index, kind, severity, levels, seed)), labels)
    clean, *shares = (group.sum(right).double() / len(images)).tolist()
    return {"clean_top1": clean, **_table(dict(zip(cells, shares, strict=True)))}


def difference(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    """What `second` scores above `first`, cell by cell and mean by mean, such as STS above TMA (Spatial Ensemble, Fig. 5).

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


def _table(cells: dict[tuple[str, int], float]) -> dict[str, float]:
    """The cells and their means, by name."""

    def mean(chosen: list[tuple[str, int]]) -> float:
        return sum(cells[cell] for cell in chosen) / len(chosen)

    kinds = dict.fromkeys(kind for kind, _ in cells)
    standard = [cell for cell in cells if cell[0] in corruptions.ALL]
    return {
        "corruptions/mean": mean(standard),
        **{f"corruptions/severity_{s}": mean([cell for cell in standard if cell[1] == s]) for s in SEVERITIES},
        **{f"corruptions/{kind}": mean([(kind, s) for s in SEVERITIES]) for kind in kinds},
        **{f"corruptions/{kind}/{s}": share for (kind, s), share in cells.items()},
    }
