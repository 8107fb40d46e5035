"""Filters that the types share, with the edge rules of the published programs, and rounding to 8 bits.

Images are float64 [N, C, H, W]; no function here mixes samples.
"""

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

# share of a step of 1/255: a value that float64 puts just below the edge of a step counts as on the edge
SLACK = 1e-6


def cut(x: Tensor) -> Tensor:
    """Rounds down to whole 255ths, as a cast to uint8 does."""
    return (255 * x + SLACK).floor() / 255


def rounded(x: Tensor) -> Tensor:
    """Rounds to the nearest whole 255ths, halves up."""
    return (255 * x + 0.5 + SLACK).floor() / 255


def fold(index: Tensor, size: int, edge: str) -> Tensor:
    """Moves places outside range(size) inside: "nearest" d d|d c b a, "reflect" c d|d c b a, "mirror" b c|d c b a."""
    if edge == "nearest":
        return index.clamp(0, size - 1)
    period = 2 * size - (2 if edge == "mirror" else 0)
    index = index.remainder(period)
    return torch.minimum(index, (period - 1 if edge == "reflect" else period) - index)


def padded(x: Tensor, radius: int, edge: str) -> Tensor:
    """Returns images with `radius` more pixels on each side."""
    for axis in (-2, -1):
        size = x.shape[axis]
        x = x.index_select(axis, fold(torch.arange(-radius, size + radius, device=x.device), size, edge))
    return x


def gaussian(x: Tensor, sigma: float, truncate: float = 4.0, edge: str = "nearest") -> Tensor:
    """Gaussian blur with a kernel of int(truncate sigma + 0.5) pixels to each side."""
    rows, columns = (_gaussian_matrix(size, sigma, truncate, edge).to(x.device) for size in x.shape[-2:])
    return rows @ x @ columns.T


@functools.lru_cache(maxsize=64)
def _gaussian_matrix(size: int, sigma: float, truncate: float, edge: str) -> Tensor:
    """Returns the filter along a line as a matrix [size, size], which includes the rule of the edge."""
    radius = int(truncate * sigma + 0.5)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    weights = [math.exp(-0.5 * (offset / sigma) ** 2) if offset else 1.0 for offset in range(-radius, radius + 1)]
    at = torch.arange(size)
    for offset, weight in zip(range(-radius, radius + 1), weights, strict=True):
        matrix[at, fold(at + offset, size, edge)] += weight / sum(weights)
    return matrix


def correlate(x: Tensor, kernel: tuple[tuple[float, ...], ...], edge: str) -> Tensor:
    """Correlation with a small square kernel, centred on the pixel; exact for whole numbers."""
    height, width = x.shape[-2:]
    wide = padded(x, len(kernel) // 2, edge)
    total = torch.zeros_like(x)
    for down, row in enumerate(kernel):
        for across, weight in enumerate(row):
            if weight:
                total.add_(wide[..., down : down + height, across : across + width], alpha=weight)
    return total


def motion(x: Tensor, angles: Tensor, radius: int, sigma: float) -> Tensor:
    """ImageMagick's motion blur: the Gaussian mean of the 2 radius + 1 pixels of a ray, one-sided, rounded to 8 bits.

    The i-th pixel is at (round(i cos), round(i sin)) to the right and below. Outside the image, the edge pixel counts.

    Args:
        x: images [N, C, H, W].
        angles: of the rays, in degrees, [N].
        radius: in pixels.
        sigma: of the weights exp(-i^2 / (2 sigma^2)).
    """
    height, width = x.shape[-2:]
    angles = torch.deg2rad(angles)
    weights = [math.exp(-0.5 * (step / sigma) ** 2) for step in range(2 * radius + 1)]
    flat, total = x.flatten(2), torch.zeros_like(x).flatten(2)
    for step, weight in enumerate(weights):
        across, down = ((step * way - 0.5).ceil().to(torch.int64)[:, None] for way in (angles.cos(), angles.sin()))
        rows = fold(torch.arange(height, device=x.device) + down, height, "nearest")
        columns = fold(torch.arange(width, device=x.device) + across, width, "nearest")
        place = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)[:, None]
        total.add_(flat.gather(2, place.expand_as(flat)), alpha=weight / sum(weights))
    return rounded(total.view_as(x))


def zoomed(x: Tensor, factor: float) -> Tensor:
    """Returns the middle of the image, enlarged bilinearly to the image's size."""
    sizes = x.shape[-2:]
    crop = [math.ceil(size / factor) for size in sizes]
    top, left = ((size - part) // 2 for size, part in zip(sizes, crop, strict=True))
    large = [max(size, round(part * factor)) for size, part in zip(sizes, crop, strict=True)]
    x = F.interpolate(x[..., top : top + crop[0], left : left + crop[1]], large, mode="bilinear", align_corners=True)
    top, left = ((part - size) // 2 for size, part in zip(sizes, large, strict=True))
    return x[..., top : top + sizes[0], left : left + sizes[1]]
