"""CIFAR-10 from torchvision: 50,000 train and 10,000 test images of 32 x 32 in 10 classes."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from trainables.data.sets.base_torchvision import CIFAR

BATCH = 10_000 * 3072  # bytes of a file


class CIFAR10(CIFAR):
    """CIFAR-10, with names of its classes."""

    CLASSES: ClassVar[int] = 10
    TORCHVISION: ClassVar[str] = "CIFAR10"
    FOLDER: ClassVar[str] = "cifar-10-batches-py"
    LEAST: ClassVar[Mapping[str, int]] = {
        **{f"data_batch_{number}": BATCH for number in range(1, 6)},
        "test_batch": BATCH,
        "batches.meta": 1,
    }

    def class_names(self) -> Sequence[str]:
        return ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
