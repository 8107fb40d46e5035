"""A sheet of all corruptions: a row for each type, the original and then the five severities."""

import argparse
import sys
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from PIL import Image, ImageDraw, UnidentifiedImageError
from sklearn.datasets import load_sample_image
from torch import Tensor

from trainables.config import settings
from trainables.config.errors import UserError
from trainables.evaluation.corruptions import catalogue

SIDES = {"cifar": 32, "imagenet": 224}
MARGIN, GAP, TILE = 120, 2, 96  # pixels: for the names, between images, and of a side of an image at least


def sheet(image: Tensor, kinds: tuple[str, ...], levels: str, seed: int = 0) -> Tensor:
    """Returns tiles [kinds, 1 + severities, C, H, W] of an image [C, H, W]: the original, then each severity."""
    one, sample = image[None], torch.zeros(1, dtype=torch.int64)
    rows = [
        [one, *(catalogue.corrupt(one, sample, kind, s, levels, seed) for s in catalogue.SEVERITIES)] for kind in kinds
    ]
    return torch.stack([torch.cat(row) for row in rows])


def draw(tiles: Tensor, kinds: tuple[str, ...]) -> Image.Image:
    """Returns the sheet as a picture. Small images are enlarged by repetition."""
    times = max(1, TILE // tiles.shape[-1])
    tiles = tiles.expand(-1, -1, 3, -1, -1).repeat_interleave(times, 3).repeat_interleave(times, 4)
    rows, columns, _, height, width = tiles.shape
    canvas = Image.new("RGB", (MARGIN + columns * (width + GAP), rows * (height + GAP)), "white")
    pen = ImageDraw.Draw(canvas)
    pixels = (255 * tiles).round().to(torch.uint8).permute(0, 1, 3, 4, 2).numpy()
    for row, kind in enumerate(kinds):
        pen.text((4, row * (height + GAP) + height // 2 - 6), kind, fill="black")
        for column in range(columns):
            canvas.paste(Image.fromarray(pixels[row, column]), (MARGIN + column * (width + GAP), row * (height + GAP)))
    return canvas


def read(file: Path | None, side: int) -> Tensor:
    """Returns the middle square of an image, [3, side, side] in [0, 1]. Without a file it is a photograph of a flower.

    Raises:
        UserError: the file cannot be read as an image.
    """
    try:
        picture = Image.open(file).convert("RGB") if file else Image.fromarray(load_sample_image("flower.jpg"))
    except UnidentifiedImageError:
        raise UserError(f"--image {file}: is not an image") from None
    except OSError as error:
        raise UserError(f"--image {file}: cannot be read ({error.strerror or error})") from None
    least = min(picture.size)
    left, top = ((size - least) // 2 for size in picture.size)
    picture = picture.resize((side, side), Image.Resampling.BOX, (left, top, left + least, top + least))
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255


def _save(picture: Image.Image, file: Path) -> None:
    try:
        picture.save(file)
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({error.strerror or error})") from None


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, as for any other error of the user."""
        raise UserError(message)


def main(arguments: list[str] | None = None) -> int:
    """Writes the sheet as PNG. Exit status 2 for an error of the user."""
    parser = _Parser(prog="python -m trainables.evaluation.corruptions", description=__doc__)
    parser.add_argument("sheet", type=Path, help="the PNG file to be written")
    parser.add_argument("--image", type=Path, help="what is corrupted; a photograph of a flower without it")
    parser.add_argument("--levels", default="cifar", help="cifar (the default) or imagenet")
    parser.add_argument(
        "--side", type=settings.whole_number, help="pixels; 32 for cifar and 224 for imagenet without it"
    )
    parser.add_argument("--held-out", action="store_true", help="the four held-out types too")
    try:
        given = parser.parse_args(arguments)
        kinds = catalogue.ALL + (catalogue.HELD_OUT if given.held_out else ())
        catalogue.check(kinds[0], 1, given.levels)
        if given.sheet.suffix.lower() != ".png":
            raise UserError(f"{given.sheet}: must end in .png")
        picture = draw(sheet(read(given.image, given.side or SIDES[given.levels]), kinds, given.levels), kinds)
        _save(picture, given.sheet)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{given.sheet}: {len(kinds)} types, 5 severities, levels of {given.levels}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
