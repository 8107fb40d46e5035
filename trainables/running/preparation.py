"""What every use of a trial begins with: arithmetic that can be repeated, and the images on the device."""

import functools
import os
from collections.abc import Sequence

import torch

from trainables.config import trial as c
from trainables.data import images as data


def make_deterministic(device: torch.device, precision: str) -> None:
    """Makes a resumed trial equal one that was not interrupted, on a GPU too.

    Torch warns of operations that it cannot repeat.
    """
    if device.type != "cuda":
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    # else torch writes to every new tensor
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "bf16"


def load_sets(config: c.Data, split: str, device: torch.device) -> tuple[data.Images, data.Images, data.Images]:
    """The images of a trial, on a device.

    Args:
        config: of the data.
        split: "validation" or "test".
        device: of the pixels.

    Returns:
        What the student learns from; what evaluations learn from, mostly the same object; and the images of the split.
    """
    train, bank, other = listed(config, split)
    moved = train.to(device)
    return moved, moved if bank is train else bank.to(device), other.to(device)


@functools.lru_cache(maxsize=2)
def listed(config: c.Data, split: str) -> Sequence[data.Images]:
    """Train, bank and a split.

    Remembered, so that a worker that runs trial after trial does not list a million files for each.
    """
    return data.splits(config, "train", "bank", split)
