"""CIFAR-100 from torchvision: 50,000 train and 10,000 test images of 32 x 32 in 100 classes."""

from collections.abc import Mapping
from typing import ClassVar

from trainables.data.sets.base_torchvision import CIFAR


class CIFAR100(CIFAR):
    """CIFAR-100, whose classes are shown by their numbers."""

    CLASSES: ClassVar[int] = 100
    TORCHVISION: ClassVar[str] = "CIFAR100"
    FOLDER: ClassVar[str] = "cifar-100-python"
    LEAST: ClassVar[Mapping[str, int]] = {"train": 50_000 * 3072, "test": 10_000 * 3072, "meta": 1}
