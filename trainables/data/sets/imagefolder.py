"""A folder for each class, below `train` and `test` (or `val`): root/train/cat/1.jpg, as torchvision has ImageNet."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np

from trainables.config.errors import UserError, nearest
from trainables.data import files
from trainables.data.sets.base import Chunks, EncodedSet

FOLDERS = {"train": ("train",), "test": ("test", "val", "validation")}
ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"}
ROWS = 256
BUNCHES = 32  # of a sample
BUNCH = 16  # images of a bunch


class ImageFiles:
    """Images that each have a file, read one by one (`Encoded`)."""

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
        """Does nothing, because nothing is held."""


class ImageFolder(EncodedSet):
    """Images in class folders. Classes are numbered by the sorted names of the train folders."""

    NEEDS_ROOT: ClassVar[bool] = True
    NAMED: ClassVar[bool] = True

    def source(self, split: str) -> str:
        folder, classes = self._listed(split)
        return "\n".join([files.fingerprint(folder / name for name in _joined(classes)), *self.class_names()])

    def names(self) -> list[str]:
        """Returns the names of the train images, such as "cat/1.jpg"."""
        return _joined(self._listed("train")[1])

    def class_names(self) -> list[str]:
        return list(self._listed("train")[1])

    def encoded(self, split: str) -> ImageFiles:
        folder, classes = self._listed(split)
        numbers = {name: index for index, name in enumerate(classes if split == "train" else self.class_names())}
        if unknown := classes.keys() - numbers.keys():
            has = f"{split} has classes that train lacks: {', '.join(sorted(unknown))}"
            raise UserError(f"data.root = '{self.data.root}': {has}")
        labels = np.asarray([numbers[name] for name in classes], dtype=np.int64)
        return ImageFiles(folder, _joined(classes), np.repeat(labels, [len(images) for images in classes.values()]))

    def read(self, split: str) -> Chunks:
        encoded = self.encoded(split)
        for start in range(0, len(encoded.labels), ROWS):
            labels = encoded.labels[start : start + ROWS]
            stored = map(encoded.read, range(start, start + len(labels)))
            images = [files.decode(image, self.data.image_size, path, self.data.resize) for image, path in stored]
            yield files.stack(images, f"'{self.data.root}'"), labels

    def _listed(self, split: str) -> tuple[Path, dict[str, list[str]]]:
        """Returns the folder of a split, and the names of the images of each class; all sorted.

        A class without images is left out.
        """
        root, wanted = files.existing_root(self.data.root), files.chosen_classes(self.data.classes)
        for folder in (root / name for name in FOLDERS[split]):
            try:
                below = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir()) if folder.is_dir() else []
                chosen = [name for name in below if wanted is None or name in wanted]
                classes = {name: images for name in chosen if (images := _images(folder / name))}
            except OSError as error:
                raise UserError(f"data.root = '{root}': {error.filename} cannot be read ({error.strerror})") from None
            if split == "train" and wanted is None and classes:
                _require_images(root, folder, [name for name in below if name not in classes])
            if split == "train" and below and (missing := sorted((wanted or set()) - classes.keys())):
                rule = f"no images {folder.name}/{missing[0]}/<image>{nearest(missing[0], below)}"
                raise UserError(f"data.classes: {rule}")
            if classes:
                return folder, classes
        place = folder if folder.is_dir() else root
        rule = f"holds no images {FOLDERS[split][0]}/<class>/<image>; {place} holds {files.contents(place)}"
        raise UserError(f"data.root = '{root}': {rule}")


def _joined(classes: dict[str, list[str]]) -> list[str]:
    return [f"{name}/{image}" for name, images in classes.items() for image in images]


def _require_images(root: Path, folder: Path, empty: list[str]) -> None:
    """Raises `UserError` where a class folder of train is empty and not hidden. torchvision refuses it, too."""
    if seen := [name for name in empty if not name.startswith(".")]:
        rule = f"{folder.name}/{seen[0]} holds no images ({', '.join(sorted(ENDINGS))})"
        raise UserError(f"data.root = '{root}': {rule}; remove it, or choose classes with data.classes")


def _images(folder: Path) -> list[str]:
    return sorted(
        name for name in os.listdir(folder) if os.path.splitext(name)[1].lower() in ENDINGS and not name.startswith(".")
    )
