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
from trainables.data.pictures import Pictures
from trainables.data.randaugment import grey, randaugment

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TRIES = 10  # crops of a whole image that are drawn until one fits, as in torchvision
# from RGB to luma and two axes of chroma (YIQ), where a rotation of the chroma plane changes the hue
YIQ = ((0.299, 0.587, 0.114), (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135))


def views(
    images: Tensor | Pictures, samples: Tensor, kinds: Sequence[ViewKind], config: Views, *key: int | str
) -> list[Tensor]:
    """Returns augmented views, standardised, of images [N, C, H, W] in [0, 1]. A view is [N, C, H, W], or smaller if
    local.

    Args:
        images: the batch, on the device where the work is to be done. Whole images (`Pictures.shapes`) are cropped as
            torchvision's RandomResizedCrop does: a crop that does not fit is drawn again, up to ten times.
        samples: int64 [N], each image's index in its split. Random numbers are keyed by it, so they do not depend on
            the batch.
        kinds: one of each view. "full": all augmentations that are configured; "local": the same of a smaller crop, in
            fewer pixels, never solarised; "weak": cropped and flipped; "strong": weak, then RandAugment.
        config: strengths and probabilities.
        key: seed and epoch.
    """
    return [view(images, samples, number, kind, config, *key) for number, kind in enumerate(kinds)]


def view(
    images: Tensor | Pictures, samples: Tensor, number: int, kind: ViewKind, config: Views, *key: int | str
) -> Tensor:
    """Returns one of `views`, by its number."""
    pictures = images if isinstance(images, Pictures) else Pictures(images)
    if kind == "local":
        config = config.model_copy(update={"crop_scale": config.local_scale, "solarise": (0.0, 0.0)})
    elif kind != "full":
        off = {"turn": 0.0, "jitter": 0.0, "gray": 0.0, "blur": (0.0, 0.0), "solarise": (0.0, 0.0), "noise": 0.0}
        config = config.model_copy(update=off)
    size = pictures.side
    if kind == "local":
        size = config.local_side(size or min(pictures.pixels.shape[-2:]))
    x = _view(pictures._replace(side=size), samples, number, config, key)
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


def _view(pictures: Pictures, samples: Tensor, view: int, config: Views, key: tuple[int | str, ...]) -> Tensor:
    pixels, samples = pictures.pixels, samples.to(pictures.pixels.device)
    draws = keyed.uniform(samples, 16, *key, f"view {view}", dtype=pixels.dtype).unbind(1)
    if pictures.shapes is None:
        wide, tall = _box(draws[0], draws[1], config)
        aspect: float | Tensor = pixels.shape[-2] / pixels.shape[-1]
    else:
        tries = keyed.uniform(samples, 2 * TRIES, *key, f"crop {view}", dtype=pixels.dtype)
        wide, tall = whole_box(tries, pictures.shapes, config)
        aspect = 1 / pictures.shapes
    x = _resample(pictures, wide, tall, aspect, draws[2:6], config)
    if pixels.shape[1] == 3:
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


def _drawn(area: Tensor, ratio: Tensor, config: Views) -> tuple[Tensor, Tensor]:
    """Share of an image's area, and width over height, of crops, of uniform numbers."""
    area = config.crop_scale[0] + (config.crop_scale[1] - config.crop_scale[0]) * area
    low, high = (math.log(r) for r in config.crop_ratio)
    return area, torch.exp(low + (high - low) * ratio)


def _box(area: Tensor, ratio: Tensor, config: Views) -> tuple[Tensor, Tensor]:
    """Width and height [N] of crops of squares, as shares of theirs, of uniform numbers; at most 1."""
    area, ratio = _drawn(area, ratio, config)
    return (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)


def whole_box(tries: Tensor, shapes: Tensor, config: Views) -> tuple[Tensor, Tensor]:
    """Width and height [N] of crops of whole images, as shares of theirs, by the rule of RandomResizedCrop.

    The first of some tries counts that fits into the image. If none does, it is the largest crop at its centre whose
    width over height is in the range; it may then still move along its longer side, which torchvision's does not.

    Args:
        tries: uniform numbers [N, 2 tries]: areas, then ratios.
        shapes: width over height of the images, [N].
        config: with the ranges of area and ratio.
    """
    areas, ratios = tries.chunk(2, dim=1)
    area, ratio = _drawn(areas, ratios, config)
    shapes = shapes[:, None]
    wide, tall = (area * ratio / shapes).sqrt(), (area / ratio * shapes).sqrt()
    fits = (wide <= 1) & (tall <= 1)
    first = fits.to(torch.uint8).argmax(1, keepdim=True)
    low, high = config.crop_ratio
    least_wide, least_tall = (high / shapes).clamp(max=1), (shapes / low).clamp(max=1)
    found = fits.any(1, keepdim=True)
    wide = torch.where(found, wide.gather(1, first), least_wide)
    tall = torch.where(found, tall.gather(1, first), least_tall)
    return wide[:, 0], tall[:, 0]


def _resample(
    pictures: Pictures,
    wide: Tensor,
    tall: Tensor,
    aspect: float | Tensor,
    draws: Sequence[Tensor],
    config: Views,
) -> Tensor:
    """Random resized crop, shift, turn and flip as one affine map, bilinear.

    The result has `pictures.side` pixels a side, or the size of the pixels.

    Args:
        pictures: of the batch.
        wide: width of the crops, as a share of the image's, [N].
        tall: their height.
        aspect: height over width of the images, of all or of each [N].
        draws: four uniform numbers [N]: place across and down, angle, flip.
        config: of the views.
    """
    images, size = pictures.pixels, pictures.side
    across, down, angle, flip = draws
    shift_x, shift_y = (1 - wide + 2 * config.shift) * (2 * across - 1), (1 - tall + 2 * config.shift) * (2 * down - 1)
    angle = math.radians(config.turn) * (2 * angle - 1)
    mirror = torch.where(flip < config.flip, -1.0, 1.0).to(images.dtype)
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
