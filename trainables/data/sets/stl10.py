"""STL-10 from torchvision: 5,000 train and 8,000 test images of 96 x 96 in 10 classes, and 100,000 without labels."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from trainables.data.sets.base_torchvision import Part, TorchvisionSet

IMAGE = 3 * 96 * 96  # bytes
TRAIN, TEST, UNLABELLED = 5_000, 8_000, 100_000
SPLITS = {  # in torchvision's names
    "train": ("train",),
    "test": ("test",),
    "unlabelled": ("unlabeled",),
    "both": ("train", "unlabeled"),
}


class STL10(TorchvisionSet):
    """The only data set with unlabelled images."""

    CLASSES: ClassVar[int] = 10
    SHAPE: ClassVar[tuple[int, int, int]] = (96, 96, 3)
    UNLABELLED: ClassVar[int] = UNLABELLED
    VIEWS: ClassVar[Mapping[str, Any]] = {"blur": [1.0, 0.1]}
    TRAIN_IMAGES: ClassVar[int] = TRAIN
    FOLDER: ClassVar[str] = "stl10_binary"
    LEAST: ClassVar[Mapping[str, int]] = {
        "train_X.bin": TRAIN * IMAGE,
        "test_X.bin": TEST * IMAGE,
        "unlabeled_X.bin": UNLABELLED * IMAGE,
        "train_y.bin": TRAIN,
        "test_y.bin": TEST,
    }

    def class_names(self) -> Sequence[str]:
        return ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]

    def parts(self, split: str) -> Iterator[Part]:
        from torchvision import datasets

        for name in SPLITS[split]:
            opened = datasets.STL10(self.data.root, split=name, download=self.data.download)
            yield opened.data, opened.labels
