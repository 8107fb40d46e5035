"""Data sets that torchvision downloads and stores: opened alike, read as arrays."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from trainables import config as c
from trainables import files
from trainables.datasets import Chunks
from trainables.errors import UserError

ROWS = 1024


def check(data: "c.Data", folder: str) -> None:
    """The folder that torchvision unpacks to must be there, unless it may be downloaded."""
    if data.download:
        return
    root = files.existing_root(data.root)
    if not (root / folder).is_dir():
        raise UserError(f"data.root = '{root}': holds no folder '{folder}'; set data.download=true to fetch it")


def source(data: "c.Data", folder: str) -> str | None:
    """Fingerprint of the unpacked files; None before a download."""
    check(data, folder)
    unpacked = (data.root or Path()) / folder
    return files.fingerprint(sorted(file for file in unpacked.rglob("*") if file.is_file())) if unpacked.is_dir() else None


def read(data: "c.Data", open_set: Callable[..., Any], **split: object) -> Chunks:
    """The images of a split as [n, H, W, C] and their labels.

    Raises:
        UserError: torchvision finds the files incomplete, or cannot download them.
    """
    try:
        opened = open_set(root=data.root, download=data.download, **split)
    except (RuntimeError, OSError) as error:
        raise UserError(f"data.root = '{data.root}': {str(error).splitlines()[0]}") from None
    labels = opened.labels if hasattr(opened, "labels") else opened.targets
    images = np.asarray(opened.data, dtype=np.uint8)
    images = images if images.shape[-1] == 3 else images.transpose(0, 2, 3, 1)
    for start in range(0, len(images), ROWS):  # STL-10's 2.8 GB are turned around piece by piece
        yield images[start : start + ROWS], np.asarray(labels[start : start + ROWS], dtype=np.int64)
