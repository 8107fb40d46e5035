"""Files of a data set: their checks, their fingerprint, and images decoded from bytes."""

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from trainables.config.errors import UserError
from trainables.data import pulse

SHOWN = 6  # entries of a folder that a message lists


def existing_root(root: Path | None) -> Path:
    """The data folder.

    Raises:
        UserError: it is missing, no folder, or empty.
    """
    if root is None or not root.exists():
        raise UserError(f"data.root = '{root}': no such folder")
    if not root.is_dir():
        raise UserError(f"data.root = '{root}': must be a folder")
    try:
        empty = not any(root.iterdir())
    except PermissionError:
        raise UserError(f"data.root = '{root}': may not be read") from None
    if empty:
        raise UserError(f"data.root = '{root}': the folder is empty")
    return root


@contextmanager
def naming_root(root: Path | None) -> Iterator[None]:
    """An error of the block that names no key, but a file or a class, is given that of the data folder."""
    try:
        yield
    except UserError as error:
        if str(error).startswith("data."):
            raise
        raise UserError(f"data.root = '{root}': {error}") from None


def contents(folder: Path) -> str:
    """What a folder holds instead of what was looked for there: its first entries, for messages."""
    names = sorted(entry.name + "/" * entry.is_dir() for entry in folder.iterdir() if not entry.name.startswith("."))
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "") or "nothing"


def spread(count: int, parts: int) -> list[int]:
    """Up to `parts` of range(count), evenly spaced: the first and the last, then the others in a fixed random order."""
    places = np.unique(np.linspace(0, count - 1, min(count, parts)).round().astype(np.int64)).tolist()
    ends, middle = places[:1] + places[1:][-1:], places[1:-1]
    return [*ends, *np.random.default_rng(0).permutation(middle).tolist()]


def chosen_classes(classes: Path | tuple[str, ...] | None) -> set[str] | None:
    """`data.classes`, read where it is a file with a class on each line; None: all.

    Raises:
        UserError: the file cannot be read, or is empty.
    """
    if not isinstance(classes, Path):
        return None if classes is None else set(classes)
    if not (found := set(lines(classes, "data.classes"))):
        raise UserError(f"data.classes = '{classes}': must hold a class on each line")
    return found


def lines(path: Path, key: str) -> list[str]:
    """Lines of a text file that the configuration names by `key`, without those that are blank.

    Raises:
        UserError: it cannot be read, or is no text.
    """
    try:
        return [line.strip() for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{key} = '{path}': cannot be read ({getattr(error, 'strerror', None) or 'it is not text'})"
        ) from None


def fingerprint(files: Iterable[Path]) -> str:
    """Names, sizes and times of change, as a text: a cache keyed by it is never stale."""
    stats = ((file, file.stat()) for file in files)
    return "\n".join(f"{file.resolve()} {stat.st_size} {stat.st_mtime_ns}" for file, stat in stats)


@contextmanager
def opened(encoded: bytes, where: str) -> Iterator[Image.Image]:
    """An image of which only the head is read yet.

    Raises:
        UserError: these bytes are no image, or what the block reads of it is damaged.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            yield image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # what Pillow raises for damage, by format
        raise UserError(f"{where}: not an image that can be decoded") from None


def decode(encoded: bytes, size: int | None, where: str) -> np.ndarray:
    """RGB uint8 [H, W, 3]; with `size`, the shorter side resized to it and the centre cut out.

    Raises:
        UserError: these bytes are no image.
    """
    pulse.beat()
    with opened(encoded, where) as stored:
        image = stored.convert("RGB")
    if size is not None and image.size != (size, size):
        scale = size / min(image.size)
        width, height = (max(size, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (width - size) // 2, (height - size) // 2
        image = image.crop((left, top, left + size, top + size))
    return np.asarray(image)


def stack(images: Sequence[np.ndarray], where: str) -> np.ndarray:
    """Images of one size as [n, H, W, 3].

    Raises:
        UserError: the sizes differ, so that a size must be asked for.
    """
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        some = " and ".join(f"{width}x{height}" for height, width, _ in sorted(shapes)[:2])
        raise UserError(f"data.image_size: must be given, the images of {where} differ in size ({some})")
    return np.stack(images)
