"""The corruptions of CIFAR-C and ImageNet-C, computed as they are needed: 15 types and four that are held out, in five severities.

Source: Hendrycks & Dietterich, ICLR 2019. What differs from the published programs is said by each function; above all, `frost` has
computed crystals instead of photographs, and numbers are keyed, so that an image is corrupted in the same way wherever it is.
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
SMALLEST = 8  # pixels a side
_AT_ONCE = {
    "cpu": 2**18,
    "cuda": 2**24,
}  # values that are corrupted at a time: what stays in a CPU's cache, and fits on a GPU


def corrupt(images: Tensor, samples: Tensor, kind: str, severity: int, levels: str = "cifar", seed: int = 0) -> Tensor:
    """Images with one type of corruption, in whole 255ths as the published sets are.

    An image's result depends on itself, its index and the arguments below alone. It is worked out in float64, so that neither the
    device nor the type of the images shows in it.

    The published parameters are used as they are on images of any size, where they act in pixels too (blurs, snow, spatter): on images
    of another size than 32 (cifar) or 224 (imagenet) such types look weaker or stronger. Only the lengths of `elastic_transform` are
    scaled with the image.

    Args:
        images: [N, C, H, W] in [0, 1], in whole 255ths (others are rounded), RGB or grey, of 8 or more pixels a side, on any device.
        samples: int64 [N], each image's index in its split: what its random numbers are keyed by.
        kind: of ALL or HELD_OUT.
        severity: 1 to 5.
        levels: "cifar" or "imagenet", a table of LEVELS.
        seed: other numbers for each.

    Raises:
        UserError: there is no such kind, severity or table, or the images are too small or of other than 1 or 3 channels.
    """
    check(kind, severity, levels)
    channels, height, width = images.shape[1:]
    if channels not in (1, 3) or min(height, width) < SMALLEST:
        raise UserError(
            f"images of {height} x {width} pixels and {channels} channels: corruptions need {SMALLEST} pixels a side and 1 or 3 channels"
        )
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
