"""scikit-learn's handwritten digits: 1,797 grey images of 8 x 8, bundled with the library. For trying things out."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from trainables.data.sets.base import Chunks, DecodedSet

TRAIN_IMAGES = 1438  # four fifths


class Digits(DecodedSet):
    """The last fifth of a fixed random order is the test split."""

    CLASSES: ClassVar[int] = 10
    SHAPE: ClassVar[tuple[int, int, int]] = (8, 8, 1)
    VIEWS: ClassVar[Mapping[str, Any]] = {
        "crop_scale": [0.5, 1.0],
        "turn": 10.0,
        "flip": 0.0,
        "jitter": 0.0,
        "gray": 0.0,
        "solarise": [0.0, 0.0],
        "noise": 0.1,
    }

    def check(self) -> int:
        """Returns the number of train images. There is nothing to check: they come with scikit-learn."""
        return TRAIN_IMAGES

    def source(self, split: str) -> None:
        return None

    def read(self, split: str) -> Chunks:
        """Yields one chunk."""
        images, labels = _digits()
        order = np.random.default_rng(0).permutation(len(labels))
        chosen = order[:TRAIN_IMAGES] if split == "train" else order[TRAIN_IMAGES:]
        grey = np.round(images[chosen] * (255 / 16)).astype(np.uint8)
        yield grey.reshape(-1, 8, 8, 1), labels[chosen].astype(np.int64)


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """All images float64 [1797, 64] from 0 to 16 and their labels [1797], as scikit-learn's `load_digits` returns them.

    They are read from its file without importing it, which would take a second of each worker's start.
    """
    package = importlib.util.find_spec("sklearn")
    assert package is not None and package.origin is not None, "scikit-learn is one of our dependencies"
    file = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if not file.is_file():  # a version of scikit-learn that keeps it elsewhere
        from sklearn.datasets import load_digits

        return load_digits(return_X_y=True)
    table = np.loadtxt(file, delimiter=",")
    return table[:, :-1], table[:, -1]
