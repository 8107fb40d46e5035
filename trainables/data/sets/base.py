"""Base classes of data sets. A data set is one file with one class, found by the file's name. Needs no torch.

Before anything starts, `trainables.data.check` looks at the data: it asks a `DecodedSet` to `check` itself, and an
`EncodedSet` for its labels and a sample of its images.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar, Protocol

import numpy as np

from trainables.config.data import Data, DataSetFacts, facts

Chunk = tuple[np.ndarray, np.ndarray]
"""Images uint8 [n, H, W, C] and their labels int64 [n]; a label below 0 means that the image has none."""
Chunks = Iterator[Chunk]


class Encoded(Protocol):
    """Images that stay encoded where they are. Several threads read them at once.

    Attributes:
        labels: int64 [N].
        starts: int64 [groups + 1], the first rows of groups that are read together, then N. None: there are no groups.
    """

    @property
    def labels(self) -> np.ndarray: ...
    @property
    def starts(self) -> np.ndarray | None: ...

    def read(self, row: int) -> tuple[bytes, str]:
        """Returns an image as it is stored, and its place, for messages.

        Raises:
            UserError: the image cannot be read; the file is named.
        """

    def sample(self) -> Iterator[list[tuple[bytes, str]]]:
        """Yields images in bunches, as `read` returns them: the first, the last, then others spread over the set."""

    def close(self) -> None:
        """Frees what is held in memory. Reading may go on afterwards."""


class DataSet(DataSetFacts, ABC):
    """A stored data set, read as a trial's section `data` says.

    A split is "train" or "test". With unlabelled images there is also "unlabelled", and "both": train images first,
    then unlabelled ones.

    Args:
        data: the section of the trial.

    Attributes:
        NAMED: whether its images have names.
    """

    NAMED: ClassVar[bool] = False

    def __init__(self, data: Data):
        self.data = data

    @abstractmethod
    def source(self, split: str) -> str | None:
        """Returns a text that changes when the stored images change; None where reading is as quick as a cache."""

    @abstractmethod
    def read(self, split: str) -> Chunks:
        """Yields all images of a split with their labels.

        Raises:
            UserError: files are missing or damaged.
        """

    def names(self) -> Sequence[str]:
        """Returns the names of the train images, in the order of `read`. Only where images are NAMED."""
        raise NotImplementedError

    def class_names(self) -> Sequence[str]:
        """Returns the names of the classes, in the order of the labels; nothing where classes have no names."""
        return ()


class DecodedSet(DataSet):
    """A data set that stores arrays of pixels and is read as a whole.

    Attributes:
        CLASSES: how many classes it has.
        SHAPE: height, width and channels of its images.
    """

    CLASSES: ClassVar[int]
    SHAPE: ClassVar[tuple[int, int, int]]

    @abstractmethod
    def check(self) -> int:
        """Returns the number of stored train images, without reading them.

        Raises:
            UserError: files are missing or incomplete.
        """


class EncodedSet(DataSet):
    """A data set of image files. `data.image_size` resizes them, `data.classes` selects them; they may be streamed."""

    FILES: ClassVar[bool] = True

    @abstractmethod
    def encoded(self, split: str) -> Encoded:
        """Returns the images of a split, still encoded, in the order of `read`.

        Raises:
            UserError: files are missing or damaged.
        """


def data_set(data: Data) -> DataSet:
    """Returns the data set that the section `data` of a trial names."""
    kind = facts(data.name)
    assert issubclass(kind, DataSet)
    return kind(data)
