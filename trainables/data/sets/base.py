"""One file a data set. A file says whether it `NEEDS_ROOT`, whether it reads image `FILES`, how many `UNLABELLED` images it has besides
train, which `VIEWS` suit it, and how it is read.

Before anything starts `trainables.data.check` looks at the data, in a second or two. Of a data set with `FILES` it asks for `encoded`; of
any other for `check(data)`, the number of stored train images, which raises `UserError` where files are missing or incomplete, and for
its number of `CLASSES`. A split is "train" or "test", or with unlabelled images "unlabelled" or "both", train images first.
`source(data, split)` is a text that changes when the stored images change, or None where reading is as quick as a cache.
`read(data, split)` yields chunks (images uint8 [n, H, W, C], labels int64 [n]); a label below 0 is none.

Image files are resized to `data.image_size`, chosen by `data.classes`, and may be streamed: `encoded(data, split)` is their `Encoded`,
in the order of `read`. Where they have names, `names(data)` are those of the train images; `class_names(data)` are those of the classes,
where they have any, in the order of the labels.
"""

from collections.abc import Iterator
from typing import Protocol

import numpy as np

Chunk = tuple[np.ndarray, np.ndarray]
Chunks = Iterator[Chunk]


class Encoded(Protocol):
    """Images that stay encoded where they are. Threads read it at once."""

    labels: np.ndarray  # int64 [N]
    starts: (
        np.ndarray | None
    )  # int64 [groups + 1]: first rows of the groups that are read together, and N; None: each by itself

    def read(self, row: int) -> tuple[bytes, str]:
        """An image as it is stored, and its place, for messages.

        Raises:
            UserError: it cannot be read; the file is named.
        """

    def sample(self) -> Iterator[list[tuple[bytes, str]]]:
        """A few of the images in bunches, spread over all; the first images and the last come first. See `read`."""

    def close(self) -> None:
        """Gives back what is held in memory; reading goes on afterwards."""
