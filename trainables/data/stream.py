"""Images that stay encoded until they are needed. Threads decode them on demand, or shortly before."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from trainables.data import files, keyed
from trainables.data.sets.base import Encoded

PIECE = 4096  # expected rows that are converted from a tensor to Python numbers at a time


class Stream:
    """Pixels uint8 [N, size, size, 3], indexed by rows like a tensor. Neither threads nor `expect` change them.

    Args:
        source: the encoded images.
        size: side in pixels. The shorter side is resized to it, and the centre is cut out.
        loaders: number of threads.
        window: images within which `order` shuffles.
    """

    device = torch.device("cpu")

    def __init__(self, source: Encoded, size: int, loaders: int, window: int):
        self.source, self.shape = source, (len(source.labels), size, size, 3)
        self._loaders, self._window = loaders, window
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._coming: Iterator[int] = iter(())
        self._ahead = 0
        self._begun: dict[int, Future[np.ndarray]] = {}

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Raises `UserError` where an image cannot be read or decoded; it names the file."""
        pixels = torch.empty(len(rows), *self.shape[1:], dtype=torch.uint8)
        with self._lock:
            futures = [self._begun.pop(row) if row in self._begun else self._begin(row) for row in rows.tolist()]
            self._look_ahead()
        for place, future in zip(pixels.numpy(), futures, strict=True):
            place[:] = future.result()
        return pixels

    def expect(self, rows: Tensor, ahead: int) -> None:
        """Says which rows will be asked for, in this order, so that `ahead` of them are decoded early.

        It replaces what was expected before.
        """
        with self._lock:
            self._forget()
            self._coming, self._ahead = (row for piece in rows.split(PIECE) for row in piece.tolist()), ahead
            self._look_ahead()

    def order(self, rows: Tensor, *key: int | str) -> Tensor:
        """Returns a random order of some rows: int64 [n] of places in `rows`, a function of the key alone.

        Rows that are read in groups come group by group. Groups are in random order, and each row is up to `window`
        rows later than the beginning of its group. So no more than a window is in memory, and a batch mixes all groups
        of it.
        """
        if self.source.starts is None:
            return keyed.permutation(len(rows), *key)
        starts = torch.from_numpy(self.source.starts)
        sizes = starts.diff()
        groups = keyed.permutation(len(sizes), *key, "row groups")
        begins = torch.empty_like(sizes)
        begins[groups] = sizes[groups].cumsum(0) - sizes[groups]
        begin = begins[torch.searchsorted(starts, rows, right=True) - 1]
        return (begin + self._window * keyed.uniform(rows, 1, *key, "rows", dtype=torch.float64)[:, 0]).argsort(
            stable=True
        )

    def close(self) -> None:
        """Ends the threads and frees memory. The next request for images starts them again."""
        with self._lock:
            self._forget()
            if self._pool is not None:
                self._pool.shutdown()
                self._pool = None
            self.source.close()

    def _forget(self) -> None:
        for future in self._begun.values():
            future.cancel()
        self._begun.clear()
        self._coming = iter(())

    def _look_ahead(self) -> None:
        for row in islice(self._coming, max(0, self._ahead - len(self._begun))):
            self._begun[row] = self._begin(row)

    def _begin(self, row: int) -> Future[np.ndarray]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._loaders, "loader")
        return self._pool.submit(self._decode, row)

    def _decode(self, row: int) -> np.ndarray:
        encoded, where = self.source.read(row)
        return files.decode(encoded, self.shape[1], where)
