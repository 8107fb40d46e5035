"""The corruptions of CIFAR-C and ImageNet-C, computed when they are needed: 15 types and four held-out types, in five
severities.

Source: Hendrycks & Dietterich, ICLR 2019. Each function says how it differs from the published programs. The largest
differences: `frost` has computed crystals instead of photographs, and random numbers are keyed, so that an image is
corrupted in the same way in any batch and on any device.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from trainables.config.errors import UserError, nearest
from trainables.evaluation.corruptions import blur, digital, filters, noise, weather
from trainables.evaluation.corruptions.draws import Draws
from trainables.evaluation.corruptions.levels import LEVELS

TYPES: dict[str, Callable[..., Tensor]] = {
    corruption.__name__: corruption
    for corruption in (
        *(noise.gaussian_noise, noise.shot_noise, noise.impulse_noise),
        *(blur.defocus_blur, blur.glass_blur, blur.motion_blur, blur.zoom_blur),
        *(weather.snow, weather.frost, weather.fog, digital.brightness),
        *(digital.contrast, digital.elastic_transform, digital.pixelate, digital.jpeg_compression),
        *(noise.speckle_noise, blur.gaussian_blur, weather.spatter, digital.saturate),
    )
}
ALL, HELD_OUT = tuple(TYPES)[:15], tuple(TYPES)[15:]
SEVERITIES = (1, 2, 3, 4, 5)
SMALLEST = 8  # pixels of a side, at least
# values that are corrupted at a time, so that they stay in a CPU's cache and fit on a GPU
_AT_ONCE = {"cpu": 2**18, "cuda": 2**24}


def corrupt(images: Tensor, samples: Tensor, kind: str, severity: int, levels: str = "cifar", seed: int = 0) -> Tensor:
    """Returns images with one type of corruption, in whole 255ths like the published sets.

    The result for an image depends only on the image, its index and the arguments below. It is computed in float64, so
    that neither the device nor the type of the images changes it.

    The published parameters are used unchanged on images of any size, also where they count pixels (blurs, snow,
    spatter). So these types look weaker or stronger on images whose side is not 32 (cifar) or 224 (imagenet). Only the
    lengths of `elastic_transform` are scaled with the image.

    Args:
        images: [N, C, H, W] in [0, 1], in whole 255ths (others are rounded), RGB or grey, of at least 8 pixels a side,
            on any device.
        samples: int64 [N], each image's index in its split, by which its random numbers are keyed.
        kind: of ALL or HELD_OUT.
        severity: 1 to 5.
        levels: "cifar" or "imagenet", a table of LEVELS.
        seed: of the random numbers.

    Raises:
        UserError: there is no such kind, severity or table, the images are too small, or they have neither 1 nor 3
            channels.
    """
    check(kind, severity, levels)
    channels, height, width = images.shape[1:]
    if channels not in (1, 3) or min(height, width) < SMALLEST:
        rule = f"corruptions need {SMALLEST} pixels a side and 1 or 3 channels"
        raise UserError(f"images of {height} x {width} pixels and {channels} channels: {rule}")
    level = LEVELS[levels][kind][severity - 1]
    parameters = level if isinstance(level, tuple) else (level,)
    rows = max(1, _AT_ONCE.get(images.device.type, _AT_ONCE["cpu"]) // images[0].numel())
    pieces = []
    for some, own in zip(images.split(rows), samples.to(images.device).split(rows), strict=True):
        draws = Draws(own, (seed, kind, severity))
        x = filters.rounded(some.to(torch.float64, memory_format=torch.contiguous_format))
        pieces.append(
            (255 * filters.cut(TYPES[kind](x, draws, *parameters).clamp(0, 1))).round().to(images.dtype) / 255
        )
    return torch.cat(pieces)


def check(kind: str, severity: int, levels: str) -> None:
    """Raises UserError where there is no such kind, severity or table of levels."""
    if kind not in TYPES:
        raise UserError(f"kind = '{kind}': no such corruption{nearest(kind, TYPES)}")
    if severity not in SEVERITIES:
        raise UserError(f"severity = {severity}: must be a whole number from 1 to 5")
    if levels not in LEVELS:
        raise UserError(f"levels = '{levels}': no such table of levels{nearest(levels, LEVELS)}")
