"""Data sets that torchvision downloads and stores: opened alike, read as arrays."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trainables.config import trial as c
from trainables.config.errors import UserError
from trainables.data import files, pulse
from trainables.data.sets.base import Chunks

ROWS = 1024


def check(data: "c.Data", folder: str, least: Mapping[str, int]) -> None:
    """What torchvision unpacks must be there, unless it may be downloaded.

    Args:
        data: of the trial.
        folder: below the root.
        least: the files in it, and the bytes that each has at least.

    Raises:
        UserError: the folder or a file is missing, or a file is not whole.
    """
    unpacked = _unpacked(data, folder)
    if unpacked is None or data.download:
        return
    for name, size in least.items():
        file = unpacked / name
        has = file.stat().st_size if file.is_file() else None
        if has is None or has < size:
            state = "is missing" if has is None else f"is not whole ({has} bytes of at least {size})"
            raise UserError(f"data.root = '{data.root}': {folder}/{name} {state}; set data.download=true to fetch it")


def source(data: "c.Data", folder: str) -> str | None:
    """Fingerprint of the unpacked files; None before a download."""
    unpacked = _unpacked(data, folder)
    return (
        None if unpacked is None else files.fingerprint(sorted(file for file in unpacked.rglob("*") if file.is_file()))
    )


def _unpacked(data: "c.Data", folder: str) -> Path | None:
    """The folder that torchvision unpacks to; None before a download."""
    unpacked = (data.root or Path()) / folder
    if unpacked.is_dir():
        return unpacked
    if data.download:
        return None
    root = files.existing_root(data.root)
    raise UserError(
        f"data.root = '{root}': holds no folder '{folder}', but {files.contents(root)}; set data.download=true to fetch it"
    )


def read(data: "c.Data", open_set: Callable[..., Any], **split: object) -> Chunks:
    """The images of a split as [n, H, W, C] and their labels.

    Raises:
        UserError: torchvision finds the files incomplete, or cannot download them.
    """
    try:
        with pulse.unmeasured():
            opened = open_set(root=data.root, download=data.download, **split)
    except (RuntimeError, OSError) as error:
        raise UserError(f"data.root = '{data.root}': {str(error).splitlines()[0]}") from None
    labels = opened.labels if hasattr(opened, "labels") else opened.targets
    images = np.asarray(opened.data, dtype=np.uint8)
    images = images if images.shape[-1] == 3 else images.transpose(0, 2, 3, 1)
    for start in range(0, len(images), ROWS):  # STL-10's 2.8 GB are turned around piece by piece
        yield images[start : start + ROWS], np.asarray(labels[start : start + ROWS], dtype=np.int64)
