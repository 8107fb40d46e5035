"""Noise: one or two random numbers for each channel of each pixel."""

import functools

import torch
from torch import Tensor

from trainables.evaluation.corruptions.draws import Draws


def gaussian_noise(x: Tensor, draws: Draws, sigma: float) -> Tensor:
    """x + N(0, sigma^2)."""
    return x + sigma * draws.normal("noise", *x.shape[1:])


def speckle_noise(x: Tensor, draws: Draws, sigma: float) -> Tensor:
    """x + x N(0, sigma^2)."""
    return x + x * sigma * draws.normal("noise", *x.shape[1:])


def impulse_noise(x: Tensor, draws: Draws, share: float) -> Tensor:
    """A share of the values becomes 0 or 1, each equally often."""
    chance = draws.uniform("noise", *x.shape[1:])
    return torch.where(chance < share, (chance < share / 2).to(x), x)


def shot_noise(x: Tensor, draws: Draws, rate: float) -> Tensor:
    """Poisson(rate x) / rate, by the inverse distribution function: exact up to the 24 bits of uniform numbers."""
    tables = _poisson(rate).to(x.device)
    width = len(tables) // 256
    grey = (255 * x).round().to(torch.int64)
    chance = draws.uniform("noise", *x.shape[1:]) + 2.0**-25
    # one sorted list: the distribution function of grey level g lies between g and g + 1
    return (torch.searchsorted(tables, grey + chance) - grey * width).to(x) / rate


@functools.lru_cache(maxsize=16)
def _poisson(rate: float) -> Tensor:
    """Returns g + P(Poisson(rate g / 255) <= k) in one row, for each grey level g.

    k goes from 0 to nine standard deviations above the mean.
    """
    means = torch.arange(256, dtype=torch.float64)[:, None] * rate / 255
    counts = torch.arange(int(rate + 9 * rate**0.5) + 20, dtype=torch.float64)
    logarithms = torch.special.xlogy(counts, means) - means - torch.lgamma(counts + 1)
    return (torch.arange(256)[:, None] + logarithms.exp().cumsum(1).clamp(max=1)).flatten()
