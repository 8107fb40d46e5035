"""RandAugment in batches (Cubuk et al. 2020), with the operations, ranges and cutout of FixMatch.

Each picture gets its own operations. Pictures are [n, C, H, W] in [0, 1]; levels are shares of an operation's range,
[n]. Pixels that move in from outside are grey.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as pictures

from trainables.config.encoder import RandAugment
from trainables.data import keyed

OUTSIDE = 0.5
LEVELS = 10  # of an operation's range; drawn are 1, 2, ... below the magnitude
GREY = (0.299, 0.587, 0.114)


def randaugment(images: Tensor, samples: Tensor, config: RandAugment, *key: int | str) -> Tensor:
    """Returns pictures after `config.ops` operations and a grey square.

    Args:
        images: [N, C, H, W] in [0, 1].
        samples: int64 [N], by which random numbers are keyed.
        config: number and strength of the operations.
        key: further parts of the key.
    """
    draws = keyed.uniform(samples, 3 * config.ops + 2, *key, "randaugment").unbind(1)
    names = list(OPERATIONS)
    for slot in range(config.ops):
        which, level, sign = draws[3 * slot : 3 * slot + 3]
        chosen = (which * len(names)).long()
        levels = (1 + (level * (config.magnitude - 1)).floor()) / LEVELS * torch.where(sign < 0.5, -1.0, 1.0)
        for index, name in enumerate(names):
            rows = (chosen == index).nonzero()[:, 0].to(images.device)
            if len(rows):
                strengths = levels.to(images)[rows][:, None, None, None]
                images = images.index_copy(0, rows, OPERATIONS[name](images[rows], strengths).clamp(0, 1))
    return cut_out(images, draws[-2:], config.cutout) if config.cutout else images


def cut_out(images: Tensor, centre: tuple[Tensor, ...], size: float) -> Tensor:
    """Returns pictures with a grey square around a point, cut off at the border. `size` is a share of the side."""
    across, down = (place.to(images)[:, None] for place in centre)
    height, width = images.shape[-2:]
    inside = [
        ((torch.arange(side, device=images.device) + 0.5) / side - place).abs() < size / 2
        for side, place in ((height, down), (width, across))
    ]
    return torch.where((inside[0][:, :, None] & inside[1][:, None, :])[:, None], OUTSIDE, images)


def grey(x: Tensor) -> Tensor:
    """Returns the luma [N, 1, H, W] of RGB pictures, and grey pictures as they are."""
    return x if x.shape[1] == 1 else (x * x.new_tensor(GREY)[:, None, None]).sum(1, keepdim=True)


def _smooth(x: Tensor) -> Tensor:
    """Returns weighted means of 3 x 3 pixels, where the middle counts five times. Pixels at the border stay."""
    height, width = x.shape[-2:]
    around = [x[..., i : height - 2 + i, j : width - 2 + j] for i in range(3) for j in range(3)]
    inner = (sum(around[1:], start=around[0]) + 4 * around[4]) / 13
    return torch.cat(
        [x[..., :1, :], torch.cat([x[..., 1:-1, :1], inner, x[..., 1:-1, -1:]], dim=-1), x[..., -1:, :]], dim=-2
    )


def _towards(base: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Returns an operation that blends 5 % to 95 % of the picture with what `base` makes of it."""

    def operation(x: Tensor, level: Tensor) -> Tensor:
        kept = 0.05 + 0.9 * level.abs()
        return base(x) * (1 - kept) + x * kept

    return operation


def _equalize(x: Tensor, level: Tensor) -> Tensor:
    return pictures.equalize((x * 255).round().to(torch.uint8)).to(x.dtype) / 255


def _posterize(x: Tensor, level: Tensor) -> Tensor:
    step = 2.0 ** (4 - (4 * level.abs()).floor())  # of 256 values: 4 bits at least are left
    return ((x * 255).round() / step).floor() * step / 255


def _solarize(x: Tensor, level: Tensor) -> Tensor:
    return torch.where(x * 256 < 256 * (1 - level.abs()), x, 1 - x)


def _moved(matrix: Callable[[Tensor, Tensor], tuple[Tensor, ...]]) -> Callable[[Tensor, Tensor], Tensor]:
    """Returns an affine operation. `matrix` maps output to input places, of which -1 and 1 are the borders.

    It returns six numbers for levels [n] and zeros [n].
    """

    def operation(x: Tensor, level: Tensor) -> Tensor:
        flat = level.flatten()
        numbers = torch.stack(matrix(flat, torch.zeros_like(flat)), dim=1).view(-1, 2, 3)
        grid = F.affine_grid(numbers, list(x.shape), align_corners=False)
        return F.grid_sample(x - OUTSIDE, grid, mode="bilinear", padding_mode="zeros", align_corners=False) + OUTSIDE

    return operation


def _turn(level: Tensor, zero: Tensor) -> tuple[Tensor, ...]:
    angle = math.radians(30) * level
    return angle.cos(), -angle.sin(), zero, angle.sin(), angle.cos(), zero


OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "identity": lambda x, level: x,
    "autocontrast": lambda x, level: pictures.autocontrast(x),
    "equalize": _equalize,
    "brightness": _towards(torch.zeros_like),
    "color": _towards(lambda x: grey(x).expand_as(x)),
    "contrast": _towards(lambda x: grey(x).mean((1, 2, 3), keepdim=True).expand_as(x)),
    "sharpness": _towards(_smooth),
    "posterize": _posterize,
    "solarize": _solarize,
    "rotate": _moved(_turn),
    "shear_x": _moved(lambda level, zero: (zero + 1, 0.3 * level, zero, zero, zero + 1, zero)),
    "shear_y": _moved(lambda level, zero: (zero + 1, zero, zero, 0.3 * level, zero + 1, zero)),
    "translate_x": _moved(lambda level, zero: (zero + 1, zero, 0.6 * level, zero, zero + 1, zero)),
    "translate_y": _moved(lambda level, zero: (zero + 1, zero, zero, zero, zero + 1, 0.6 * level)),
}
