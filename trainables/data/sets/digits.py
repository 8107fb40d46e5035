"""scikit-learn's handwritten digits: 1,797 grey images of 8 x 8, bundled with the library. For trying things out."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from trainables.data.sets.base import Chunks, DecodedSet

TRAIN_IMAGES = 1438  # four fifths


class Digits(DecodedSet):
    """The last fifth of a fixed random order is the test split."""

    CLASSES: ClassVar[int] = 10
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
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        order = np.random.default_rng(0).permutation(len(labels))
        chosen = order[:TRAIN_IMAGES] if split == "train" else order[TRAIN_IMAGES:]
        grey = np.round(images[chosen] * (255 / 16)).astype(np.uint8)
        yield grey.reshape(-1, 8, 8, 1), labels[chosen].astype(np.int64)
