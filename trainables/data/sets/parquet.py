"""Parquet files in the layout of the Hugging Face hub: an image column struct<bytes, path>, and an integer label
column.

The folder, or its subfolder `data`, holds `train-*.parquet` and `test-*.parquet`. `validation-*` takes the place of
test where test is missing or has no labels, as in ImageNet. An image without a label has none in its row, or one below
0.
"""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from trainables.config.data import Data
from trainables.config.errors import UserError
from trainables.data import files
from trainables.data.sets.base import Chunks, EncodedSet

STEMS = {"train": ("train",), "test": ("test", "validation", "valid")}
ROWS = 1024
BUNCHES = 12  # of a sample, each from one row group
BUNCH = 48  # images of a bunch, at most
BUNCH_BYTES = 2**24  # of a row group that are read for a bunch, at most


class RowGroups:
    """Encoded images, read a row group at a time (`Encoded`).

    It holds the groups that were read last, up to `limit` images, so an order that is shuffled within the window reads
    each group once. The group that was read first is dropped first, because in such an order it also ends first.
    """

    def __init__(self, paths: list[Path], classes: "Classes", window: int):
        # of each group: its file, its number and its first row in the file, and its rows that are kept
        self._places: list[tuple[Path, int, int, np.ndarray]] = []
        labels = [np.empty(0, np.int64)]
        for path in paths:
            own, sizes = _labels(path)
            numbers, kept = classes.renumbered(own)
            for group, end in enumerate(np.cumsum(sizes).tolist()):
                first = end - sizes[group]
                if (rows := np.flatnonzero(kept[first:end])).size:
                    self._places.append((path, group, first, rows))
                    labels.append(numbers[first:end][rows])
        self.labels = np.concatenate(labels)
        self._sizes = [len(rows) for *_, rows in self._places]
        self.starts = np.cumsum([0, *self._sizes])
        self.limit = window + window // 4 + 2 * max(self._sizes, default=0)
        self.held = 0  # images in memory
        self._lock = threading.Lock()
        self._groups: dict[int, Future[Any]] = {}

    def read(self, row: int) -> tuple[bytes, str]:
        group = int(np.searchsorted(self.starts, row, side="right")) - 1
        path, _, first, rows = self._places[group]
        at = row - int(self.starts[group])
        return self._group(group)[at].as_py() or b"", f"{path}, row {first + rows[at]}"

    def sample(self) -> Iterator[list[tuple[bytes, str]]]:
        """See `Encoded`. Each bunch is the beginning of a row group, so that no group is read as a whole."""
        for group in files.spread(len(self._places), BUNCHES):
            path, number, first, rows = self._places[group]
            yield [(image, f"{path}, row {first + row}") for row, image in _first_images(path, number, rows)]

    def close(self) -> None:
        with self._lock:
            self._groups.clear()
            self.held = 0

    def _group(self, group: int) -> Any:
        """Returns the images of a group as an array of bytes. The first thread that asks for them reads them."""
        with self._lock:
            first = group not in self._groups
            if first:
                self._groups[group] = Future()
                self.held += self._sizes[group]
            images = self._groups[group]
            while self.held > self.limit:
                oldest = next(iter(self._groups))
                del self._groups[oldest]
                self.held -= self._sizes[oldest]
        if first:
            try:
                images.set_result(_read_group(*self._places[group]))
            except BaseException as error:
                images.set_exception(error)
        return images.result()


class Classes:
    """The labels that are kept, and their new numbers.

    Raises:
        UserError: a class is no number.
    """

    def __init__(self, data: Data):
        chosen = files.chosen_classes(data.classes)
        if odd := sorted(name for name in chosen or () if not name.isdecimal()):
            raise UserError(
                f"data.classes: '{odd[0]}' must be a label, such as 17; in Parquet classes are chosen by number"
            )
        self.kept = None if chosen is None else np.asarray(sorted(map(int, chosen)), dtype=np.int64)

    def renumbered(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns new labels [n], and which rows are kept, bool [n]."""
        if self.kept is None:
            return labels, np.ones(len(labels), dtype=bool)
        return np.searchsorted(self.kept, labels), np.isin(labels, self.kept)

    def require_all(self, labels: np.ndarray) -> None:
        """Raises `UserError` where a class that is kept has no image among those with these new labels."""
        if self.kept is not None and len(missing := np.setdiff1d(np.arange(len(self.kept)), labels)):
            raise UserError(f"data.classes: no train image has label {self.kept[missing[0]]}")


class Parquet(EncodedSet):
    """Images in row groups, of which only the columns of images and labels are read."""

    NEEDS_ROOT: ClassVar[bool] = True

    def source(self, split: str) -> str:
        kept = files.chosen_classes(self.data.classes)
        return "\n".join([files.fingerprint(self._files(split)), *sorted(kept or ())])

    def class_names(self) -> list[str]:
        """Returns the names that Hugging Face writes into a file's metadata, of the classes that are kept."""
        import pyarrow.parquet

        path = self._files("train")[0]
        with _readable(path), pyarrow.parquet.ParquetFile(path) as opened:
            schema = opened.schema_arrow
            _, label = _columns(schema, path)
        try:
            names = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][label]["names"]
            kept = Classes(self.data).kept
            return [str(names[index]) for index in (range(len(names)) if kept is None else kept)]
        except (KeyError, TypeError, ValueError, IndexError):
            return []

    def encoded(self, split: str) -> RowGroups:
        """Returns the images of a split, of which only the labels are read yet."""
        paths, classes = self._files(split), Classes(self.data)
        groups = RowGroups(paths, classes, self.data.window)
        if split == "train":
            classes.require_all(groups.labels)
        return groups

    def read(self, split: str) -> Chunks:
        """Yields batches of rows, so that no file is in memory as a whole."""
        paths, classes = self._files(split), Classes(self.data)
        seen = [np.empty(0, np.int64)]
        for path in paths:
            with _readable(path):
                for pictures, labels in _chunks(path, self.data, classes):
                    seen.append(np.unique(labels))
                    yield pictures, labels
        if split == "train":
            classes.require_all(np.concatenate(seen))

    def _files(self, split: str) -> list[Path]:
        root = files.existing_root(self.data.root)
        for folder in (root, root / "data"):
            for stem in STEMS[split]:
                paths = sorted(folder.glob(f"{stem}*.parquet"))
                if paths and (split == "train" or _labels(paths[0])[0].max(initial=-1) >= 0):
                    return paths
        wanted = f"{split}-*.parquet{' with labels' if split == 'test' else ''}"
        raise UserError(f"data.root = '{root}': holds no {wanted}; it holds {files.contents(root)}")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError):
        raise UserError(f"{path}: not a readable Parquet file") from None


def _chunks(path: Path, data: Data, classes: Classes) -> Chunks:
    import pyarrow.parquet

    table = pyarrow.parquet.ParquetFile(path)
    image, label = _columns(table.schema_arrow, path)
    first = 0
    for batch in table.iter_batches(batch_size=ROWS, columns=[image, label]):
        numbers, kept = classes.renumbered(_numbers(batch.column(label)))
        rows = np.flatnonzero(kept)
        stored = batch.column(image).field("bytes").take(rows).to_pylist()
        pictures = [
            files.decode(one or b"", data.image_size, f"{path}, row {first + row}", data.resize)
            for row, one in zip(rows, stored, strict=True)
        ]
        first += len(batch)
        if pictures:
            yield files.stack(pictures, str(path)), numbers[rows]


def _read_group(path: Path, group: int, first: int, rows: np.ndarray) -> Any:
    """Returns the encoded images of some rows of a row group, without reading other columns."""
    import pyarrow.parquet

    with _readable(path), pyarrow.parquet.ParquetFile(path) as opened:
        image, _ = _columns(opened.schema_arrow, path)
        column = opened.read_row_group(group, columns=[f"{image}.bytes"], use_threads=False).flatten().column(0)
        return column if len(rows) == len(column) else column.take(rows)


def _first_images(path: Path, group: int, rows: np.ndarray) -> list[tuple[int, bytes]]:
    """Returns the first encoded images of a row group among its kept `rows`, each with its row in the group."""
    import pyarrow.parquet

    found: list[tuple[int, bytes]] = []
    at = read = 0
    paged = {"buffer_size": 2**16, "pre_buffer": False}  # page by page
    with _readable(path), pyarrow.parquet.ParquetFile(path, **paged) as opened:
        image, _ = _columns(opened.schema_arrow, path)
        for batch in opened.iter_batches(BUNCH, row_groups=[group], columns=[f"{image}.bytes"], use_threads=False):
            images = batch.column(0).field("bytes")
            kept = np.flatnonzero(np.isin(np.arange(at, at + len(batch)), rows))
            found += [(at + place, images[place].as_py() or b"") for place in kept.tolist()]
            at, read = at + len(batch), read + images.nbytes
            if len(found) >= BUNCH or read >= BUNCH_BYTES:
                break
    return found


def _labels(path: Path) -> tuple[np.ndarray, list[int]]:
    """Returns the labels of a file [n], and the sizes of its row groups."""
    import pyarrow.parquet

    with _readable(path), pyarrow.parquet.ParquetFile(path) as opened:
        _, label = _columns(opened.schema_arrow, path)
        sizes = [opened.metadata.row_group(group).num_rows for group in range(opened.metadata.num_row_groups)]
        return _numbers(opened.read(columns=[label]).column(label)), sizes


def _numbers(labels: Any) -> np.ndarray:
    """Returns an Arrow array of labels as int64; -1 where a label is missing."""
    return np.asarray(labels.fill_null(-1).to_numpy(zero_copy_only=False), dtype=np.int64)


def _columns(schema: object, path: Path) -> tuple[str, str]:
    import pyarrow

    fields = list(schema)  # type: ignore[call-overload]
    images = [f.name for f in fields if pyarrow.types.is_struct(f.type) and f.type.get_field_index("bytes") >= 0]
    labels = [f.name for f in fields if pyarrow.types.is_integer(f.type)]
    labels.sort(key=lambda name: (name != "label", "label" not in name))
    if not images or not labels:
        has = ", ".join(f"{field.name} ({field.type})" for field in fields)
        raise UserError(
            f"{path}: needs a column struct<bytes, path> of images and an integer column of labels; it has {has}"
        )
    return images[0], labels[0]
