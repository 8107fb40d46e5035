"""How drops of water catch the light, as published for `spatter`: edges, distances from them, and a relief of these.

The published program calls OpenCV. These are the same algorithms, except that distances are exact here and a 5 x 5
approximation there.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.evaluation.corruptions import filters

LOW, HIGH = 50, 150  # of Canny's edges
FAR = 20  # pixels, beyond which distances count as this
SOBEL = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))
RELIEF = ((-2.0, -1.0, 0.0), (-1.0, 1.0, 1.0), (0.0, 1.0, 2.0))
MEAN = ((1.0, 1.0, 1.0),) * 3


def light(layer: Tensor) -> Tensor:
    """Brightness, up to a factor, of liquid [N, 1, H, W] in whole 255ths."""
    distance = filters.correlate(_distance(_edges((255 * layer).round())), MEAN, "mirror") / 9
    relief = filters.correlate(_equalised(distance.floor()), RELIEF, "mirror").clamp(0, 255)
    return layer * (filters.correlate(relief, MEAN, "mirror") / 9).round()


def _edges(x: Tensor) -> Tensor:
    """Canny's edges of images in whole numbers, with the gradient's size as |dx| + |dy|: bool [N, 1, H, W]."""
    slope_x, slope_y = (filters.correlate(x, kernel, "nearest") for kernel in (SOBEL, tuple(zip(*SOBEL, strict=True))))
    size = slope_x.abs() + slope_y.abs()
    wide = F.pad(size, (1, 1, 1, 1))
    height, width = x.shape[-2:]

    def beside(down: int, across: int) -> Tensor:
        return wide[..., 1 + down : 1 + down + height, 1 + across : 1 + across + width]

    flat = slope_y.abs() < 0.4142135623730951 * slope_x.abs()  # tan 22.5 degrees
    steep = slope_y.abs() > 2.414213562373095 * slope_x.abs()
    falling = (slope_x < 0) != (slope_y < 0)
    diagonal = torch.where(
        falling,
        (size > beside(-1, 1)) & (size > beside(1, -1)),
        (size > beside(-1, -1)) & (size > beside(1, 1)),
    )
    ridge = torch.where(
        flat,
        (size > beside(0, -1)) & (size >= beside(0, 1)),
        torch.where(steep, (size > beside(-1, 0)) & (size >= beside(1, 0)), diagonal),
    )
    weak, strong = ridge & (size > LOW), ridge & (size > HIGH)
    while True:  # a weak edge that touches a strong one becomes strong
        grown = weak & (F.max_pool2d(strong.to(x.dtype), 3, 1, 1) > 0)
        if torch.equal(grown, strong):
            return strong
        strong = grown


def _distance(edges: Tensor) -> Tensor:
    """Returns the distance of each pixel from the nearest edge in its image, at most FAR; squares add line by line."""
    square = torch.where(edges, 0.0, float(FAR**2)).to(torch.float64)
    for axis in (-1, -2):
        size = edges.shape[axis]
        best = square.clone()
        for shift in range(1, min(FAR, size)):
            for there, here in ((0, shift), (shift, 0)):
                part = best.narrow(axis, here, size - shift)
                torch.minimum(part, square.narrow(axis, there, size - shift) + shift**2, out=part)
        square = best
    return square.sqrt()


def _equalised(x: Tensor) -> Tensor:
    """Equalises the histogram of each image [N, 1, H, W] of whole numbers from 0 to 255.

    An image with a single value stays as it is.
    """
    values = x.flatten(1).to(torch.int64)
    greys = torch.arange(256, device=x.device).expand(len(x), -1).contiguous()
    upto = torch.searchsorted(values.sort(1).values, greys, right=True)  # how many are of this grey or darker
    lowest = upto.gather(1, values.amin(1, keepdim=True))
    others = values.shape[1] - lowest
    table = ((upto - lowest) * (255.0 / others.clamp(min=1))).round()
    return torch.where(others > 0, table.gather(1, values).to(x), x.flatten(1)).view_as(x)
