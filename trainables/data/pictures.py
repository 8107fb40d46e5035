"""Pictures that random crops are taken of: the centres of images, or whole images."""

from typing import NamedTuple

from torch import Tensor


class Pictures(NamedTuple):
    """Some images of a batch, before they are cropped.

    Attributes:
        pixels: [N, C, H, W] in [0, 1]. A whole image is squeezed into a square, whatever its shape was.
        side: of a view in pixels; None where it is that of the pixels.
        shapes: width over height of each whole image as it is stored, [N]; None where images are as they were.
    """

    pixels: Tensor
    side: int | None = None
    shapes: Tensor | None = None
