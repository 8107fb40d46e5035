"""scikit-learn's handwritten digits: 1,797 grey images of 8 x 8, bundled with the library. Proves the path, not the science."""

import numpy as np

from trainables.config import trial as c
from trainables.data.sets.base import Chunks

FILES = False
CLASSES = 10
UNLABELLED = 0
NEEDS_ROOT = False
VIEWS = {
    "crop_scale": [0.5, 1.0],
    "turn": 10.0,
    "flip": 0.0,
    "jitter": 0.0,
    "gray": 0.0,
    "solarise": [0.0, 0.0],
    "noise": 0.1,
}
TRAIN_IMAGES = 1438  # four fifths


def check(data: "c.Data") -> int:
    """Nothing to check: the images come with scikit-learn."""
    return TRAIN_IMAGES


def source(data: "c.Data", split: str) -> None:
    return None


def read(data: "c.Data", split: str) -> Chunks:
    """One chunk; the last fifth of a fixed random order is the test split."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    chosen = order[:TRAIN_IMAGES] if split == "train" else order[TRAIN_IMAGES:]
    grey = np.round(images[chosen] * (255 / 16)).astype(np.uint8)
    yield grey.reshape(-1, 8, 8, 1), labels[chosen].astype(np.int64)
