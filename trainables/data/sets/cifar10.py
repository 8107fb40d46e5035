"""CIFAR-10 from torchvision: 50,000 train and 10,000 test images of 32 x 32 in 10 classes."""

from trainables.config import trial as c
from trainables.data import downloads
from trainables.data.sets.base import Chunks

FILES = False
CLASSES = 10
UNLABELLED = 0
NEEDS_ROOT = True
VIEWS: dict[str, object] = {}
FOLDER = "cifar-10-batches-py"
LEAST = {f"data_batch_{n}": 10_000 * 3072 for n in range(1, 6)} | {
    "test_batch": 10_000 * 3072,
    "batches.meta": 1,
}  # bytes


def check(data: "c.Data") -> int:
    downloads.check(data, FOLDER, LEAST)
    return 50_000


def source(data: "c.Data", split: str) -> str | None:
    return downloads.source(data, FOLDER)


def class_names(data: "c.Data") -> list[str]:
    return ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def read(data: "c.Data", split: str) -> Chunks:
    from torchvision.datasets import CIFAR10

    yield from downloads.read(data, CIFAR10, train=split == "train")
