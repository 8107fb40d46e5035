"""Files of a data set: checks, fingerprints, and images decoded from bytes."""

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from trainables.config.errors import UserError
from trainables.data import pulse

SHOWN = 6  # entries of a folder that a message lists


def existing_root(root: Path | None) -> Path:
    """Returns the data folder.

    Raises:
        UserError: it is missing, not a folder, or empty.
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


def cache_folder() -> Path:
    """Returns the folder of decoded images: $TEACHER_TUNER_CACHE, or teacher-tuner in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "teacher-tuner"
    return Path(os.environ.get("TEACHER_TUNER_CACHE") or default)


@contextmanager
def naming_root(root: Path | None) -> Iterator[None]:
    """Within the block, an error that names a file or a class but no key gets the key of the data folder."""
    try:
        yield
    except UserError as error:
        if str(error).startswith("data."):
            raise
        raise UserError(f"data.root = '{root}': {error}") from None


def contents(folder: Path) -> str:
    """Returns the first entries of a folder, for messages that say what it holds."""
    names = sorted(entry.name + "/" * entry.is_dir() for entry in folder.iterdir() if not entry.name.startswith("."))
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "") or "nothing"


def spread(count: int, parts: int) -> list[int]:
    """Returns up to `parts` of range(count), evenly spaced: first, last, then the others in a fixed random order."""
    places = np.unique(np.linspace(0, count - 1, min(count, parts)).round().astype(np.int64)).tolist()
    ends, middle = places[:1] + places[1:][-1:], places[1:-1]
    return [*ends, *np.random.default_rng(0).permutation(middle).tolist()]


def chosen_classes(classes: Path | tuple[str, ...] | None) -> set[str] | None:
    """Returns the names in `data.classes`, which may be a file with a class on each line; None means all classes.

    Raises:
        UserError: the file cannot be read, or is empty.
    """
    if not isinstance(classes, Path):
        return None if classes is None else set(classes)
    if not (found := set(lines(classes, "data.classes"))):
        raise UserError(f"data.classes = '{classes}': must hold a class on each line")
    return found


def lines(path: Path, key: str) -> list[str]:
    """Returns the lines of a text file that the configuration names by `key`, without blank lines.

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
    """Returns names, sizes and times of change as a text. A cache keyed by it is never stale."""
    stats = ((file, file.stat()) for file in files)
    return "\n".join(f"{file.resolve()} {stat.st_size} {stat.st_mtime_ns}" for file, stat in stats)


@contextmanager
def opened(encoded: bytes, where: str) -> Iterator[Image.Image]:
    """Opens an image, of which only the head is read at first.

    Raises:
        UserError: the bytes are no image, or what the block reads is damaged.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            yield image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # Pillow's errors for damage, by format
        raise UserError(f"{where}: not an image that can be decoded") from None


def decode(encoded: bytes, size: int | None, where: str, resize: int | None = None) -> np.ndarray:
    """Returns RGB uint8 [H, W, 3].

    Args:
        encoded: the image as it is stored.
        size: side of the square that is cut out of its centre; None: the image stays as it is.
        where: its place, for messages.
        resize: what the shorter side is resized to before; `size` by default.

    Raises:
        UserError: the bytes are no image.
    """
    image = _decoded(encoded, where)
    if size is not None and (resize not in (None, size) or image.size != (size, size)):
        scale = (resize or size) / min(image.size)
        width, height = (max(size, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (width - size) // 2, (height - size) // 2
        image = image.crop((left, top, left + size, top + size))
    return np.asarray(image)


def squeeze(encoded: bytes, side: int, where: str) -> tuple[np.ndarray, float]:
    """Returns a whole image as a square, RGB uint8 [side, side, 3], and its width over its height as it is stored.

    Raises:
        UserError: the bytes are no image.
    """
    image = _decoded(encoded, where)
    width, height = image.size
    return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC)), width / height


def _decoded(encoded: bytes, where: str) -> Image.Image:
    pulse.beat()
    with opened(encoded, where) as stored:
        return stored.convert("RGB")


def stack(images: Sequence[np.ndarray], where: str) -> np.ndarray:
    """Returns images of one size as [n, H, W, 3].

    Raises:
        UserError: the sizes differ, so that `data.image_size` is needed.
    """
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        some = " and ".join(f"{width}x{height}" for height, width, _ in sorted(shapes)[:2])
        raise UserError(f"data.image_size: must be given, the images of {where} differ in size ({some})")
    return np.stack(images)
