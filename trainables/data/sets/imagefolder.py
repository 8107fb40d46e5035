"""A folder a class, below `train` and `test` (or `val`): root/train/cat/1.jpg. So ImageNet is kept for torchvision."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from trainables.config import trial as c
from trainables.config.errors import UserError, nearest
from trainables.data import files
from trainables.data.sets.base import Chunks

FILES = True
UNLABELLED = 0
NEEDS_ROOT = True
VIEWS: dict[str, object] = {}
FOLDERS = {"train": ("train",), "test": ("test", "val", "validation")}
ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"}
ROWS = 256
BUNCHES = 32  # A sample consists of so many bunches.
BUNCH = 16  # A bunch has so many images.


class ImageFiles:
    """Images with a file each, read one by one: `Encoded`."""

    starts = None

    def __init__(self, folder: Path, names: list[str], labels: np.ndarray):
        self._folder, self._names, self.labels = str(folder), names, labels

    def read(self, row: int) -> tuple[bytes, str]:
        path = f"{self._folder}/{self._names[row]}"
        try:
            with open(path, "rb") as file:
                return file.read(), path
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from None

    def sample(self) -> Iterator[list[tuple[bytes, str]]]:
        """See `Encoded`."""
        bounds = np.linspace(0, len(self._names), min(len(self._names), BUNCHES) + 1).astype(np.int64).tolist()
        for bunch in files.spread(len(bounds) - 1, BUNCHES):
            first, end = bounds[bunch : bunch + 2]
            yield [self.read(first + row) for row in sorted(files.spread(end - first, BUNCH))]

    def close(self) -> None:
        """Nothing is held."""


def source(data: "c.Data", split: str) -> str:
    folder, found = _listed(data, split)
    return "\n".join([files.fingerprint(folder / name for name in _joined(found)), *_classes(data)])


def names(data: "c.Data") -> list[str]:
    """Of the train images, as they are stored: "cat/1.jpg"."""
    return _joined(_listed(data, "train")[1])


def class_names(data: "c.Data") -> list[str]:
    return _classes(data)


def encoded(data: "c.Data", split: str) -> ImageFiles:
    """Classes are numbered by the sorted names of the train folders."""
    folder, found = _listed(data, split)
    classes = {name: index for index, name in enumerate(found if split == "train" else _classes(data))}
    if unknown := found.keys() - classes.keys():
        raise UserError(
            f"data.root = '{data.root}': {split} has classes that train lacks: {', '.join(sorted(unknown))}"
        )
    numbers = np.asarray([classes[name] for name in found], dtype=np.int64)
    return ImageFiles(folder, _joined(found), np.repeat(numbers, [len(own) for own in found.values()]))


def read(data: "c.Data", split: str) -> Chunks:
    found = encoded(data, split)
    for start in range(0, len(found.labels), ROWS):
        labels = found.labels[start : start + ROWS]
        stored = map(found.read, range(start, start + len(labels)))
        yield (
            files.stack([files.decode(image, data.image_size, path) for image, path in stored], f"'{data.root}'"),
            labels,
        )


def _classes(data: "c.Data") -> list[str]:
    return list(_listed(data, "train")[1])


def _joined(found: dict[str, list[str]]) -> list[str]:
    return [f"{name}/{file}" for name, own in found.items() for file in own]


def _listed(data: "c.Data", split: str) -> tuple[Path, dict[str, list[str]]]:
    """The folder of a split, and in it for each class that has images, or that is wanted, the images' names; all sorted."""
    root, wanted = files.existing_root(data.root), files.chosen_classes(data.classes)
    for folder in (root / name for name in FOLDERS[split]):
        try:
            below = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir()) if folder.is_dir() else []
            found = {
                name: own for name in below if (wanted is None or name in wanted) and (own := _images(folder / name))
            }
        except OSError as error:
            raise UserError(f"data.root = '{root}': {error.filename} cannot be read ({error.strerror})") from None
        if split == "train" and wanted is None and found:
            _require_images(root, folder, [name for name in below if name not in found])
        if split == "train" and below and (missing := sorted((wanted or set()) - found.keys())):
            raise UserError(f"data.classes: no images {folder.name}/{missing[0]}/<image>{nearest(missing[0], below)}")
        if found:
            return folder, found
    place = folder if folder.is_dir() else root
    raise UserError(
        f"data.root = '{root}': holds no images {FOLDERS[split][0]}/<class>/<image>; {place} holds {files.contents(place)}"
    )


def _require_images(root: Path, folder: Path, empty: list[str]) -> None:
    """Raises `UserError` where class folders of train are empty, but for hidden ones; torchvision refuses them, too."""
    if seen := [name for name in empty if not name.startswith(".")]:
        rule = f"{folder.name}/{seen[0]} holds no images ({', '.join(sorted(ENDINGS))})"
        raise UserError(f"data.root = '{root}': {rule}; remove it, or choose classes with data.classes")


def _images(folder: Path) -> list[str]:
    return sorted(
        name for name in os.listdir(folder) if os.path.splitext(name)[1].lower() in ENDINGS and not name.startswith(".")
    )
