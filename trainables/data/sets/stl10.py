"""STL-10 from torchvision: 5,000 train and 8,000 test images of 96 x 96 in 10 classes, and 100,000 without labels."""

from trainables.config import trial as c
from trainables.data import downloads
from trainables.data.sets.base import Chunks

FILES = False
CLASSES = 10
UNLABELLED = 100_000
NEEDS_ROOT = True
VIEWS: dict[str, object] = {"blur": [1.0, 0.1]}
FOLDER = "stl10_binary"
IMAGE = 3 * 96 * 96
LEAST = {  # bytes
    **{
        f"{name}_X.bin": count * IMAGE for name, count in (("train", 5_000), ("test", 8_000), ("unlabeled", UNLABELLED))
    },
    **{f"{name}_y.bin": count for name, count in (("train", 5_000), ("test", 8_000))},
}
SPLITS = {
    "train": ("train",),
    "test": ("test",),
    "unlabelled": ("unlabeled",),
    "both": ("train", "unlabeled"),
}  # torchvision's names


def check(data: "c.Data") -> int:
    downloads.check(data, FOLDER, LEAST)
    return 5_000


def source(data: "c.Data", split: str) -> str | None:
    return downloads.source(data, FOLDER)


def class_names(data: "c.Data") -> list[str]:
    return ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]


def read(data: "c.Data", split: str) -> Chunks:
    from torchvision.datasets import STL10

    for name in SPLITS[split]:
        yield from downloads.read(data, STL10, split=name)
