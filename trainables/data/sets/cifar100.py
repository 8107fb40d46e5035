"""CIFAR-100 from torchvision: 50,000 train and 10,000 test images of 32 x 32 in 100 classes."""

from trainables.config import trial as c
from trainables.data import downloads
from trainables.data.sets.base import Chunks

FILES = False
CLASSES = 100
UNLABELLED = 0
NEEDS_ROOT = True
VIEWS: dict[str, object] = {}
FOLDER = "cifar-100-python"
LEAST = {"train": 50_000 * 3072, "test": 10_000 * 3072, "meta": 1}  # bytes


def check(data: "c.Data") -> int:
    downloads.check(data, FOLDER, LEAST)
    return 50_000


def source(data: "c.Data", split: str) -> str | None:
    return downloads.source(data, FOLDER)


def read(data: "c.Data", split: str) -> Chunks:
    from torchvision.datasets import CIFAR100

    yield from downloads.read(data, CIFAR100, train=split == "train")
