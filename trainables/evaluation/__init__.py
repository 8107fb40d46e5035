"""One file a protocol: `evaluate(bank, queries, config) -> dict` on features. `encode` makes the features."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainables import augment
from trainables.data import Images
from trainables.encoders import run_parts
from trainables.group import Group


@dataclass(frozen=True)
class Features:
    """Features [N, F] in float32 and labels int64 [N], on one device."""

    x: Tensor
    labels: Tensor


@torch.no_grad()
def encode(parts: nn.ModuleDict, images: Images, batch_size: int, group: Group) -> Features:
    """Features of un-augmented images by the backbone in evaluation mode. Collective: the workers share the work, and all get the result."""
    was_training = [(module, module.training) for module in parts.modules()]
    parts.eval()
    counts = group.split(len(images))
    mine = group.share(len(images))
    dtype = next(parts.parameters()).dtype
    rows = []
    for start in range(mine.start, mine.stop, batch_size):
        index = torch.arange(start, min(start + batch_size, mine.stop))
        batch = augment.standardise(images.batch(index, group.device, dtype))
        rows.append(run_parts(parts, batch, "conv1", "block4").float())
    for module, mode in was_training:
        module.training = mode
    return Features(group.join(torch.cat(rows), counts), images.labels.to(group.device))
