"""Blurs."""

import numpy as np
import torch
from torch import Tensor

from trainables.evaluation.corruptions import filters
from trainables.evaluation.corruptions.draws import Draws


def gaussian_blur(x: Tensor, draws: Draws, sigma: float) -> Tensor:
    """Gaussian blur of sigma pixels."""
    return filters.gaussian(x, sigma)


def defocus_blur(x: Tensor, draws: Draws, radius: float, alias: float) -> Tensor:
    """The mean over a disk of `radius` pixels, whose rim is softened by a small Gaussian of sigma `alias`."""
    kernel = _disk(radius, alias).to(x.device)
    reach = len(kernel) // 2
    wide = filters.padded(x, reach, "mirror")
    size = wide.shape[-2:]
    # by Fourier transform, which wraps around the edges of the padded image; the middle is unaffected
    blurred = torch.fft.irfft2(torch.fft.rfft2(wide) * torch.fft.rfft2(kernel, s=size), s=size)
    return blurred[..., 2 * reach :, 2 * reach :].clamp(0, 1)


def glass_blur(x: Tensor, draws: Draws, sigma: float, reach: int, rounds: int) -> Tensor:
    """Blur, rounds of local shuffling, blur.

    A round visits all pixels except a margin, from the last to the first. Each takes the value of a pixel that is up to
    `reach` above or to the left and up to `reach` - 1 below or to the right. The published program means to swap the
    two. On its colour images, where a pixel is a view of memory, it copies instead, and so does this function.
    """
    count, _, height, width = x.shape
    x = filters.cut(filters.gaussian(x, sigma))
    source = torch.arange(height * width, device=x.device).expand(count, -1)
    for turn in range(rounds):
        source = source.gather(1, _shuffled(draws.uniform(f"round {turn}", 2, height, width), reach))
    x = x.flatten(2).gather(2, source[:, None].expand(-1, x.shape[1], -1)).view_as(x)
    return filters.gaussian(x, sigma)


def motion_blur(x: Tensor, draws: Draws, radius: int, sigma: float) -> Tensor:
    """Blur along a line at an angle between -45 and 45 degrees of the horizontal."""
    return filters.motion(x, 90 * draws.uniform("angle", 1)[:, 0] - 45, radius, sigma)


def zoom_blur(x: Tensor, draws: Draws, stop: float, step: float) -> Tensor:
    """The mean of the image and of its enlargements by 1, 1 + step, ..., up to `stop` as `numpy.arange` counts."""
    factors = np.arange(1, stop, step).tolist()
    return (x + sum(filters.zoomed(x, factor) for factor in factors)) / (len(factors) + 1)


def _disk(radius: float, alias: float) -> Tensor:
    """Returns the kernel [k, k]. The published one has at least 17 pixels a side; its outer zeros are left out here."""
    half = 8 if radius <= 8 else int(radius)
    at = torch.arange(-half, half + 1, dtype=torch.float64)
    kernel = (at[:, None] ** 2 + at**2 <= radius**2).to(torch.float64)
    kernel /= kernel.sum()
    soft = torch.arange(3 if radius <= 8 else 5, dtype=torch.float64)
    soft = torch.exp(-((soft - len(soft) // 2) ** 2) / (2 * alias**2))
    soft /= soft.sum()
    for _ in range(2):  # along rows, then along columns
        wide = filters.padded(kernel, len(soft) // 2, "mirror")[len(soft) // 2 : len(kernel) + len(soft) // 2]
        kernel = sum(weight * wide[:, shift : shift + len(kernel)] for shift, weight in enumerate(soft.tolist())).T
    spare = int((kernel.sum(0) > 0).nonzero()[0])
    return kernel[spare : len(kernel) - spare, spare : len(kernel) - spare]


def _shuffled(draws: Tensor, reach: int) -> Tensor:
    """Returns for each pixel the place of its source pixel: int64 [N, H W] from draws [N, 2, H, W] in [0, 1)."""
    height, width = draws.shape[-2:]
    rows, columns = torch.arange(height, device=draws.device), torch.arange(width, device=draws.device)
    inside = ((rows > reach) & (rows <= height - reach))[:, None] & ((columns > reach) & (columns <= width - reach))
    down, across = (2 * reach * draws).floor().to(torch.int64).sub(reach).unbind(1)
    here, inside = torch.arange(height * width, device=draws.device), inside.flatten()
    source = torch.where(inside, here + (down * width + across).flatten(1), here)
    # a later pixel of the image was visited earlier, so it already has its source's value: follow such chains to their
    # ends, in steps that double
    onward = inside & inside[source] & (source > here)
    while onward.any():
        further = torch.where(onward, source.gather(1, source), source)
        onward = onward & onward.gather(1, source)
        source = further
    return source
