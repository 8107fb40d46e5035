"""One file a protocol: `evaluate(bank, queries, config) -> dict` on features. `encode` makes the features."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn

from trainables import augment
from trainables.data import Images
from trainables.encoders import backbone_of, feature_width, run_parts
from trainables.group import Group


@dataclass(frozen=True)
class Features:
    """Features [N, F] in float32 and labels int64 [N], on one device."""

    x: Tensor
    labels: Tensor


@contextmanager
def in_evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Each part of the module gets back the mode that it had."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


@torch.no_grad()
def encode(parts: nn.ModuleDict, images: Images, batch_size: int, group: Group, feature_norm: bool = True) -> Features:
    """Features of un-augmented images, in evaluation mode. Collective: the workers share the work, and all get the result.

    Without `feature_norm` they are those before the encoder's feature norm (BN1).
    """
    # whole batches are dealt to the workers, so that the shape of a batch, and with it every rounding, does not depend on their number
    starts = range(0, len(images), batch_size)
    sizes = [min(batch_size, len(images) - start) for start in starts]
    dtype, backbone = next(parts.parameters()).dtype, backbone_of(parts, feature_norm)
    mine = group.share(len(starts))
    images.expect(torch.arange(len(images))[mine.start * batch_size : mine.stop * batch_size], 2 * batch_size)
    rows = []
    with in_evaluation_mode(parts):
        for batch in mine:
            index = torch.arange(starts[batch], starts[batch] + sizes[batch])
            x = augment.standardise(images.batch(index, group.device, dtype))
            rows.append(run_parts(backbone, x).float())
    width = feature_width(parts)
    own = torch.cat(rows) if rows else torch.empty(0, width, device=group.device)
    bounds = list(accumulate(group.split(len(starts)), initial=0))
    counts = [sum(sizes[first:last]) for first, last in pairwise(bounds)]
    return Features(group.join(own, counts), images.labels.to(group.device))
