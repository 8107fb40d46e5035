"""Random numbers of a batch of images, keyed by each image's index."""

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from trainables.data import keyed


@dataclass(frozen=True)
class Draws:
    """Random numbers in float64 [N, *shape]. A sample's numbers are a function of index, key and purpose."""

    samples: Tensor
    key: tuple[int | str, ...]

    def uniform(self, purpose: str, *shape: int) -> Tensor:
        """Returns uniform numbers in [0, 1)."""
        return keyed.uniform(self.samples, prod(shape), *self.key, purpose, dtype=torch.float64).view(-1, *shape)

    def normal(self, purpose: str, *shape: int) -> Tensor:
        """Returns normal numbers of mean 0 and variance 1."""
        return keyed.normal(self.samples, prod(shape), *self.key, purpose, dtype=torch.float64).view(-1, *shape)
