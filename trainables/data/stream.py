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

Wanted = tuple[int, bool]
"""A row, and whether its whole image is wanted."""
Decoded = tuple[np.ndarray, float]
"""Pixels uint8 [side, side, 3], and the width of the stored image over its height where it is squeezed, else 1."""
PIECE = 4096  # expected rows that are converted from a tensor to Python numbers at a time


class Stream:
    """Pixels uint8 [N, size, size, 3], indexed by rows like a tensor. Neither threads nor `expect` change them.

    Args:
        source: the encoded images.
        size: side in pixels of the square that is cut out of an image's centre.
        loaders: number of threads.
        window: images within which `order` shuffles.
        resize: what the shorter side is resized to before; `size` by default.
        whole: side of the squares that `squeezed` returns; None where it is not asked.
    """

    device = torch.device("cpu")

    def __init__(
        self,
        source: Encoded,
        size: int,
        loaders: int,
        window: int,
        resize: int | None = None,
        whole: int | None = None,
    ):
        self.resize, self.whole = resize, whole
        self.source, self.shape = source, (len(source.labels), size, size, 3)
        self._loaders, self._window = loaders, window
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._coming: Iterator[Wanted] = iter(())
        self._ahead = 0
        self._begun: dict[Wanted, Future[Decoded]] = {}

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Raises `UserError` where an image cannot be read or decoded; it names the file."""
        pixels = torch.empty(len(rows), *self.shape[1:], dtype=torch.uint8)
        for place, future in zip(pixels.numpy(), self._asked(rows, whole=False), strict=True):
            place[:], _ = future.result()
        return pixels

    def squeezed(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Returns whole images as squares, uint8 [n, whole, whole, 3], and their width over their height, float64 [n].

        Raises:
            UserError: an image cannot be read or decoded; its file is named.
        """
        assert self.whole is not None
        pixels = torch.empty(len(rows), self.whole, self.whole, self.shape[-1], dtype=torch.uint8)
        shapes = torch.empty(len(rows), dtype=torch.float64)
        for number, (place, future) in enumerate(zip(pixels.numpy(), self._asked(rows, whole=True), strict=True)):
            place[:], shapes[number] = future.result()
        return pixels, shapes

    def expect(self, rows: Tensor, ahead: int, cropped: bool = False) -> None:
        """Says which rows will be asked for, in this order, so that `ahead` of them are decoded early.

        It replaces what was expected before.

        Args:
            rows: int64.
            ahead: how many are decoded early.
            cropped: whether they are asked for to be cropped: by `squeezed`, if this stream has whole images.
        """
        whole = cropped and self.whole is not None
        with self._lock:
            self._forget()
            self._coming, self._ahead = ((row, whole) for piece in rows.split(PIECE) for row in piece.tolist()), ahead
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

    def _asked(self, rows: Tensor, whole: bool) -> list[Future[Decoded]]:
        """Returns rows that are being decoded or that were, and has the next ones decoded."""
        wanted = [(row, whole) for row in rows.tolist()]
        with self._lock:
            futures = [self._begun.pop(one) if one in self._begun else self._begin(one) for one in wanted]
            self._look_ahead()
        return futures

    def _look_ahead(self) -> None:
        for wanted in islice(self._coming, max(0, self._ahead - len(self._begun))):
            self._begun[wanted] = self._begin(wanted)

    def _begin(self, wanted: Wanted) -> Future[Decoded]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._loaders, "loader")
        return self._pool.submit(self._decode, *wanted)

    def _decode(self, row: int, whole: bool) -> Decoded:
        encoded, where = self.source.read(row)
        if whole:
            assert self.whole is not None
            return files.squeeze(encoded, self.whole, where)
        return files.decode(encoded, self.shape[1], where, self.resize), 1.0
