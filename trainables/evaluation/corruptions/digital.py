"""Colours, grids and warps."""

import io

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from trainables.evaluation.corruptions import filters
from trainables.evaluation.corruptions.draws import Draws


def brightness(x: Tensor, draws: Draws, shift: float) -> Tensor:
    """The value of HSV raised, hue and saturation kept."""
    value = x.amax(1, keepdim=True)
    raised = (value + shift).clamp(max=1)
    return torch.where(value > 0, x * (raised / value), raised)


def saturate(x: Tensor, draws: Draws, factor: float, shift: float) -> Tensor:
    """The saturation of HSV times a factor, plus a shift, hue and value kept; a pixel without hue counts as red.

    Grey images have no saturation, and stay as they are.
    """
    if x.shape[1] == 1:
        return x
    value, lowest = x.amax(1, keepdim=True), x.amin(1, keepdim=True)
    has_hue = value > lowest
    before = (value - lowest) / value.clamp(min=1 / 255)
    after = (factor * before + shift).clamp(0, 1)
    red = torch.tensor([0.0, 1.0, 1.0], dtype=x.dtype, device=x.device)[:, None, None]
    depth = torch.where(has_hue, (value - x) / torch.where(has_hue, before, 1), value * red)
    return value - depth * after


def contrast(x: Tensor, draws: Draws, factor: float) -> Tensor:
    """Each channel drawn towards its mean over the image."""
    mean = x.mean((2, 3), keepdim=True)
    return mean + factor * (x - mean)


def pixelate(x: Tensor, draws: Draws, share: float) -> Tensor:
    """Means over boxes, int(share of the side) of them, enlarged by repetition; rounded to 8 bits after each pass."""
    for transposed, size in ((True, x.shape[3]), (False, x.shape[2])):
        small = max(1, int(share * size))
        boxes = _boxes(size, small).to(x.device)
        nearest = ((torch.arange(size, device=x.device) + 0.5) * small / size).to(torch.int64)
        x = x.transpose(2, 3) if transposed else x
        x = filters.rounded(boxes @ x)[:, :, nearest]
        x = x.transpose(2, 3) if transposed else x
    return x


def jpeg_compression(x: Tensor, draws: Draws, quality: int) -> Tensor:
    """The image written as JPEG of a quality and read again, on the CPU by Pillow, as published."""
    pixels = (255 * x).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    decoded = []
    for image in pixels:
        file = io.BytesIO()
        Image.fromarray(image[..., 0] if x.shape[1] == 1 else image).save(file, "JPEG", quality=quality)
        decoded.append(np.array(Image.open(file)))
    return torch.from_numpy(np.stack(decoded).reshape(pixels.shape)).permute(0, 3, 1, 2).to(x) / 255


def elastic_transform(x: Tensor, draws: Draws, strength: float, sigma: float, spread: float, side: int) -> Tensor:
    """A random affine map, then a smooth random displacement of each pixel.

    The three lengths are in pixels of images whose shorter side is `side`; they are scaled to the side of these images.

    Args:
        x: images [N, C, H, W].
        draws: their random numbers.
        strength: factor of the displacement, which is smoothed numbers between -1 and 1.
        sigma: of the Gaussian that smooths the displacement.
        spread: how far each coordinate of the three points that define the affine map may move.
        side: of the images that the lengths are written for.
    """
    height, width = x.shape[-2:]
    scale = min(height, width) / side
    rows, columns = (torch.arange(size, dtype=x.dtype, device=x.device) for size in (height, width))
    third, middle = min(height, width) // 3, torch.tensor([width // 2, height // 2])
    corners = (middle + third * torch.tensor([[1, 1], [1, -1], [-1, -1]])).to(x)
    moved = corners + spread * scale * (2 * draws.uniform("affine", 3, 2) - 1)
    # from where a point is to where it was: [N, 3, 2]
    back = torch.linalg.solve(F.pad(moved, (0, 1), value=1.0), corners)
    across, down = (
        back[:, 0, axis, None, None] * columns
        + back[:, 1, axis, None, None] * rows[:, None]
        + back[:, 2, axis, None, None]
        for axis in (0, 1)
    )
    x = _sampled(x, across, down, around_pixels=True)
    if strength == 0:
        return x
    waves = filters.gaussian(
        2 * draws.uniform("displacement", 2, height, width) - 1, sigma * scale, truncate=3.0, edge="reflect"
    )
    across, down = (strength * scale * waves).unbind(1)
    return _sampled(x, columns + across, rows[:, None] + down, around_pixels=False)


def _sampled(x: Tensor, across: Tensor, down: Tensor, around_pixels: bool) -> Tensor:
    """x at places [N, H, W] in pixels, bilinear, reflected about the edge pixels or about their outer edges."""
    height, width = x.shape[-2:]
    if around_pixels:
        grid = torch.stack([2 * across / (width - 1) - 1, 2 * down / (height - 1) - 1], dim=-1)
    else:
        grid = torch.stack([(2 * across + 1) / width - 1, (2 * down + 1) / height - 1], dim=-1)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=around_pixels)


def _boxes(size: int, small: int) -> Tensor:
    """Mean over the pixels whose middles lie in each of `small` equal boxes: [small, size]."""
    scale = size / small
    middles = torch.arange(size, dtype=torch.float64) + 0.5
    boxes = (torch.arange(small, dtype=torch.float64)[:, None] + 0.5) * scale
    distance = (middles - boxes) / scale
    weights = ((distance > -0.5) & (distance <= 0.5)).to(torch.float64)
    return weights / weights.sum(1, keepdim=True)
