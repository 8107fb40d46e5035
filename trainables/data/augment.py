"""Views: augmentation on the device, in batches. Random numbers are keyed by (seed, epoch, sample).

Order: crop with shift, turn and flip (one resampling), brightness, contrast, saturation, hue, grey, blur, solarise,
    noise, standardise.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.config.base import ViewKind
from trainables.config.encoder import Views
from trainables.data import keyed
from trainables.data.randaugment import grey, randaugment

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# from RGB to luma and two axes of chroma (YIQ), where a rotation of the chroma plane changes the hue
YIQ = ((0.299, 0.587, 0.114), (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135))


def views(images: Tensor, samples: Tensor, kinds: Sequence[ViewKind], config: Views, *key: int | str) -> list[Tensor]:
    """Returns augmented views, standardised, of images [N, C, H, W] in [0, 1]. A view is [N, C, H, W], or smaller if
    local.

    Args:
        images: the batch, on the device where the work is to be done.
        samples: int64 [N], each image's index in its split. Random numbers are keyed by it, so they do not depend on
            the batch.
        kinds: one of each view. "full": all augmentations that are configured; "local": the same of a smaller crop, in
            fewer pixels, never solarised; "weak": cropped and flipped; "strong": weak, then RandAugment.
        config: strengths and probabilities.
        key: seed and epoch.
    """
    return [view(images, samples, number, kind, config, *key) for number, kind in enumerate(kinds)]


def view(images: Tensor, samples: Tensor, number: int, kind: ViewKind, config: Views, *key: int | str) -> Tensor:
    """Returns one of `views`, by its number."""
    if kind == "local":
        config = config.model_copy(update={"crop_scale": config.local_scale, "solarise": (0.0, 0.0)})
    elif kind != "full":
        off = {"turn": 0.0, "jitter": 0.0, "gray": 0.0, "blur": (0.0, 0.0), "solarise": (0.0, 0.0), "noise": 0.0}
        config = config.model_copy(update=off)
    size = config.local_side(min(images.shape[-2:])) if kind == "local" else None
    x = _view(images, samples, number, config, size, key)
    return standardise(randaugment(x, samples, config.randaugment, *key, f"view {number}") if kind == "strong" else x)


def standardise(images: Tensor) -> Tensor:
    """Returns images in [0, 1] brought to about mean 0 and variance 1, by ImageNet's constants.

    Grey images take the averages of the constants over the channels.
    """
    mean, std = constants(images)
    return (images - mean) / std


def unstandardise(images: Tensor) -> Tensor:
    """Reverses `standardise`, up to rounding."""
    mean, std = constants(images)
    return images * std + mean


def constants(images: Tensor) -> tuple[Tensor, Tensor]:
    """Returns mean and standard deviation of ImageNet's channels, [C, 1, 1] each; for grey images, their averages."""
    mean, std = (torch.tensor(v, dtype=images.dtype, device=images.device) for v in (MEAN, STD))
    if images.shape[1] != 3:
        mean, std = mean.mean(0, keepdim=True), std.mean(0, keepdim=True)
    return mean[:, None, None], std[:, None, None]


def _view(
    images: Tensor, samples: Tensor, view: int, config: Views, size: int | None, key: tuple[int | str, ...]
) -> Tensor:
    draws = keyed.uniform(samples.to(images.device), 16, *key, f"view {view}", dtype=images.dtype).unbind(1)
    x = _resample(images, draws[:6], config, size)
    if images.shape[1] == 3:
        if config.jitter > 0:
            x = torch.where(_chosen(draws[6], config.jitter), _jitter(x, draws[7:11], config), x)
        if config.gray > 0:
            x = torch.where(_chosen(draws[11], config.gray), grey(x).expand_as(x), x)
    if (p := config.blur[view % 2]) > 0:
        x = torch.where(_chosen(draws[12], p), _blur(x, 0.1 + 1.9 * draws[13]), x)
    if (p := config.solarise[view % 2]) > 0:
        x = torch.where(_chosen(draws[14], p), torch.where(x >= 0.5, 1 - x, x), x)
    if config.noise > 0:
        count = x[0].numel()
        x = x + config.noise * keyed.normal(samples.to(x.device), count, *key, f"noise {view}", dtype=x.dtype).view_as(
            x
        )
    return x


def _chosen(draw: Tensor, p: float) -> Tensor:
    return (draw < p)[:, None, None, None]


def _resample(images: Tensor, draws: tuple[Tensor, ...], config: Views, size: int | None) -> Tensor:
    """Random resized crop, shift, turn and flip as one affine map, bilinear.

    The result has `size` pixels a side, or the size of the images.
    """
    area, ratio, across, down, angle, flip = draws
    height, width = images.shape[-2:]
    area = config.crop_scale[0] + (config.crop_scale[1] - config.crop_scale[0]) * area
    low, high = (math.log(r) for r in config.crop_ratio)
    ratio = torch.exp(low + (high - low) * ratio)
    wide, tall = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    shift_x, shift_y = (1 - wide + 2 * config.shift) * (2 * across - 1), (1 - tall + 2 * config.shift) * (2 * down - 1)
    angle = math.radians(config.turn) * (2 * angle - 1)
    mirror = torch.where(flip < config.flip, -1.0, 1.0).to(images.dtype)
    aspect = height / width
    top = torch.stack([mirror * wide * angle.cos(), -tall * angle.sin() * aspect, shift_x], dim=-1)
    bottom = torch.stack([mirror * wide * angle.sin() / aspect, tall * angle.cos(), shift_y], dim=-1)
    shape = [*images.shape] if size is None else [*images.shape[:2], size, size]
    grid = F.affine_grid(torch.stack([top, bottom], dim=1), shape, align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _jitter(x: Tensor, draws: tuple[Tensor, ...], config: Views) -> Tensor:
    """Brightness, contrast, saturation and hue, in this order; hue is turned in the chroma plane of YIQ."""
    strengths = (config.brightness, config.contrast, config.saturation)
    bright, contrast, saturation = (
        (1 + s * (2 * d - 1))[:, None, None, None] for s, d in zip(strengths, draws[:3], strict=True)
    )
    x = (x * bright).clamp(0, 1)
    mean = grey(x).mean((2, 3), keepdim=True)
    x = (mean + (x - mean) * contrast).clamp(0, 1)
    plain = grey(x)
    x = (plain + (x - plain) * saturation).clamp(0, 1)
    if config.hue == 0:
        return x
    angle = 2 * math.pi * config.hue * (2 * draws[3] - 1)
    forward = torch.tensor(YIQ, dtype=torch.float64)
    turn = torch.zeros(len(x), 3, 3, dtype=x.dtype, device=x.device)
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = angle.cos()
    turn[:, 1, 2], turn[:, 2, 1] = -angle.sin(), angle.sin()
    yiq, rgb = (matrix.to(x) for matrix in (forward, forward.inverse()))
    return torch.einsum("nij,njhw->nihw", rgb @ turn @ yiq, x).clamp(0, 1)


def _blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur with a sigma for each sample. The kernel is a tenth of the image wide.

    Sigma counts pixels of an image of 224 a side, and shrinks with smaller images.
    """
    count, channels, height, width = x.shape
    radius = max(1, min(height, width) // 20)
    sigma = (sigma * min(1.0, min(height, width) / 224)).clamp(min=0.1)
    at = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-(at**2) / (2 * sigma[:, None] ** 2))
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)[:, None]
    flat = F.pad(x.reshape(1, count * channels, height, width), (radius,) * 4, mode="reflect")
    flat = F.conv2d(flat, kernel[:, :, None, :], groups=count * channels)
    return F.conv2d(flat, kernel[:, :, :, None], groups=count * channels).view_as(x)
