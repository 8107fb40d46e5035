"""A folder a class, below `train` and `test` (or `val`): root/train/cat/1.jpg."""

from pathlib import Path

import numpy as np

from trainables import config as c
from trainables import files
from trainables.datasets import Chunks
from trainables.errors import UserError

RESIZES = True
NEEDS_ROOT = True
VIEWS: dict[str, object] = {}
FOLDERS = {"train": ("train",), "test": ("test", "val", "validation")}
ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"}
ROWS = 256


def check(data: "c.Data") -> int:
    return len(_files(data, "train"))


def source(data: "c.Data", split: str) -> str:
    return "\n".join([files.fingerprint(_files(data, split)), *_classes(data)])


def read(data: "c.Data", split: str) -> Chunks:
    """Classes are numbered by the sorted names of the train folders."""
    classes = {name: index for index, name in enumerate(_classes(data))}
    found = _files(data, split)
    if unknown := {file.parent.name for file in found} - set(classes):
        raise UserError(f"data.root = '{data.root}': {split} has classes that train lacks: {', '.join(sorted(unknown))}")
    for start in range(0, len(found), ROWS):
        chunk = found[start : start + ROWS]
        pictures = [files.decode(file.read_bytes(), data.image_size, str(file)) for file in chunk]
        yield files.stack(pictures, f"'{data.root}'"), np.asarray([classes[file.parent.name] for file in chunk], dtype=np.int64)


def _classes(data: "c.Data") -> list[str]:
    return sorted({file.parent.name for file in _files(data, "train")})


def _files(data: "c.Data", split: str) -> list[Path]:
    root = files.existing_root(data.root)
    for name in FOLDERS[split]:
        if found := sorted(file for file in (root / name).glob("*/*") if file.suffix.lower() in ENDINGS and not file.name.startswith(".")):
            return found
    raise UserError(f"data.root = '{root}': holds no images {FOLDERS[split][0]}/<class>/<image>")
