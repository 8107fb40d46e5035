"""What student and teacher see, as one picture: a row for each image, a column for each view."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from trainables.config import trial as c
from trainables.data import augment
from trainables.data import images as data
from trainables.data.pieces import Piece
from trainables.learning.methods.base import Method
from trainables.running import checkpoint_files as files

ROWS = 5  # images
SIDE = 96  # pixels of an image in the picture, at most
GAP = 6
COLUMN = SIDE + 2 * GAP
LINE = 14  # height of a line of the captions
DARK, LIGHT = (60, 60, 60), (255, 255, 255)


def write(
    config: c.TrialConfig, train: data.Images, labelled: data.Images | None, folder: Path, owner: str = ""
) -> None:
    """Writes `folder`/views.png, unless it is there: the picture is the same whenever it is made.

    Args:
        config: of the trial.
        train: what the student learns from.
        labelled: the labelled images, where the method learns from labels.
        folder: of the trial.
        owner: token of the segment; empty where the folder has no owner.

    Raises:
        OSError: the disc is full, or cannot be written; nothing of it is left there.
        Disowned: another segment has taken the folder; nothing was written.
    """
    path = folder / files.VIEWS
    if not path.exists():
        files.write_atomically(path, lambda new: draw(config, train, labelled).save(new, "PNG"), owner)


def draw(config: c.TrialConfig, train: data.Images, labelled: data.Images | None) -> Image.Image:
    """The picture of the first images of the first epoch, in the views that the trial makes of them there.

    Randomness is keyed, so drawing them changes nothing in the trial.

    Args:
        config: of the trial.
        train: what the student learns from.
        labelled: the labelled images, where the method learns from labels.
    """
    order = train.order(config.seed, 0, "order")[:ROWS]
    columns = _columns(config, train, order, "images", 0)
    if labelled is not None:
        chosen, _ = data.cycled(len(labelled), range(min(ROWS, len(labelled))), config.seed, "labelled")
        columns += _columns(config, labelled, chosen, "labelled", "labelled")
    picture = Image.new("RGB", (COLUMN * len(columns), 2 * LINE + GAP + ROWS * (SIDE + GAP)), LIGHT)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default()
    for number, (caption, images) in enumerate(columns):
        middle = COLUMN * number + COLUMN // 2
        for line, text in enumerate(caption):
            pen.text((middle - pen.textlength(text, font=font) / 2, GAP // 2 + line * LINE), text, DARK, font)
        for row, image in enumerate(images):
            corner = (middle - image.width // 2, 2 * LINE + GAP + row * (SIDE + GAP) + (SIDE - image.height) // 2)
            picture.paste(image, corner)
    return picture


def _columns(
    config: c.TrialConfig, source: data.Images, samples: Tensor, stream: str, epoch: int | str
) -> list[tuple[tuple[str, str], list[Image.Image]]]:
    """Captions of two lines and images: the images as they are, then each of their views."""
    method = config.method
    images = source.batch(samples, torch.device("cpu"), torch.float32)
    side = max(images.shape[-2:])
    scale = SIDE // side if side <= SIDE else SIDE / side
    kinds = method.views if stream == "images" else method.LABELLED_VIEWS
    pictures = source.pictures(samples, torch.device("cpu"), torch.float32)
    views = augment.views(pictures, samples, kinds, config.views, config.seed, epoch)
    columns = [(("image" if stream == "images" else "labelled image", ""), _tiles(images, scale))]
    for number, (kind, view) in enumerate(zip(kinds, views, strict=True)):
        seen = [
            who
            for who, sights in _lookers(config)
            if any(piece == (stream, number) for sight in sights for piece in sight)
        ]
        columns.append(((f"view {number + 1}, {kind}", " + ".join(seen)), _tiles(augment.unstandardise(view), scale)))
    return columns


def _lookers(config: c.TrialConfig) -> list[tuple[str, Sequence[Sequence[Piece]]]]:
    """Student and teacher with their sights; a teacher without an averaged part is the student itself."""
    assert isinstance(config.method, Method)
    teacher = [("teacher", config.method.teacher_sights)] if config.teacher.placement else []
    return [("student", config.method.student_sights), *teacher]


def _tiles(images: Tensor, scale: float) -> list[Image.Image]:
    """Images [N, C, H, W] in [0, 1] as RGB, enlarged to visible pixels, or made smaller."""
    pixels = (images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1)
    arrays = pixels.expand(-1, -1, -1, 3).numpy()
    how = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    size = [max(1, round(side * scale)) for side in (images.shape[-1], images.shape[-2])]
    return [Image.fromarray(array).resize((size[0], size[1]), how) for array in arrays]
