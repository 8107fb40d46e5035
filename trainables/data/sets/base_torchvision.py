"""Base classes of data sets that torchvision downloads and unpacks."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from trainables.config.errors import UserError
from trainables.data import files, pulse
from trainables.data.sets.base import Chunks, DecodedSet

ROWS = 1024  # images of a chunk

Part = tuple[np.ndarray, Sequence[int] | np.ndarray]
"""Images uint8 [n, H, W, 3] or [n, 3, H, W], and their labels, as torchvision holds them."""


class TorchvisionSet(DecodedSet):
    """A data set that torchvision keeps in a folder below `data.root`.

    Attributes:
        TRAIN_IMAGES: how many train images are stored.
        FOLDER: the folder below the root.
        LEAST: the files in it, and how many bytes each has at least.
    """

    NEEDS_ROOT: ClassVar[bool] = True
    TRAIN_IMAGES: ClassVar[int]
    FOLDER: ClassVar[str]
    LEAST: ClassVar[Mapping[str, int]]

    @abstractmethod
    def parts(self, split: str) -> Iterator[Part]:
        """Opens the data sets of torchvision that make up a split, one after another."""

    def check(self) -> int:
        unpacked = self._unpacked()
        if unpacked is None or self.data.download:
            return self.TRAIN_IMAGES
        for name, size in self.LEAST.items():
            file = unpacked / name
            has = file.stat().st_size if file.is_file() else None
            if has is None or has < size:
                state = "is missing" if has is None else f"is not whole ({has} bytes of at least {size})"
                where = f"data.root = '{self.data.root}': {self.FOLDER}/{name}"
                raise UserError(f"{where} {state}; set data.download=true to fetch it")
        return self.TRAIN_IMAGES

    def source(self, split: str) -> str | None:
        """Returns the fingerprint of the unpacked files; None before a download."""
        unpacked = self._unpacked()
        if unpacked is None:
            return None
        return files.fingerprint(sorted(file for file in unpacked.rglob("*") if file.is_file()))

    def read(self, split: str) -> Chunks:
        """Yields chunks of a split.

        Raises:
            UserError: torchvision finds the files incomplete, or cannot download them.
        """
        parts = self.parts(split)
        while (part := self._next(parts)) is not None:
            images, labels = np.asarray(part[0], dtype=np.uint8), part[1]
            images = images if images.shape[-1] == 3 else images.transpose(0, 2, 3, 1)
            for start in range(0, len(images), ROWS):  # STL-10's 2.8 GB are transposed piece by piece
                yield images[start : start + ROWS], np.asarray(labels[start : start + ROWS], dtype=np.int64)

    def _next(self, parts: Iterator[Part]) -> Part | None:
        try:
            with pulse.unmeasured():
                return next(parts, None)
        except (RuntimeError, OSError) as error:
            raise UserError(f"data.root = '{self.data.root}': {str(error).splitlines()[0]}") from None

    def _unpacked(self) -> Path | None:
        """The folder that torchvision unpacks to; None before a download."""
        unpacked = (self.data.root or Path()) / self.FOLDER
        if unpacked.is_dir():
            return unpacked
        if self.data.download:
            return None
        root = files.existing_root(self.data.root)
        holds = f"holds no folder '{self.FOLDER}', but {files.contents(root)}"
        raise UserError(f"data.root = '{root}': {holds}; set data.download=true to fetch it")


class CIFAR(TorchvisionSet):
    """Images of 32 x 32: 50,000 for training and 10,000 for testing.

    Attributes:
        TORCHVISION: the name of the class in torchvision.
    """

    TRAIN_IMAGES: ClassVar[int] = 50_000
    SHAPE: ClassVar[tuple[int, int, int]] = (32, 32, 3)
    TORCHVISION: ClassVar[str]

    def parts(self, split: str) -> Iterator[Part]:
        from torchvision import datasets

        opened = getattr(datasets, self.TORCHVISION)(
            self.data.root, train=split == "train", download=self.data.download
        )
        yield opened.data, opened.targets
