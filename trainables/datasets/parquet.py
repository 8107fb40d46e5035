"""Parquet files in the column layout of the Hugging Face hub: an image column with struct<bytes, path>, and an integer label column.

The folder, or its subfolder `data`, holds `train-*.parquet` and `test-*.parquet` (or `validation-*`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from trainables import config as c
from trainables import files
from trainables.datasets import Chunks
from trainables.errors import UserError

RESIZES = True
NEEDS_ROOT = True
VIEWS: dict[str, object] = {}
STEMS = {"train": ("train",), "test": ("test", "validation", "valid")}
ROWS = 1024


def check(data: "c.Data") -> int:
    found, rows = _files(data, "train"), 0
    import pyarrow.parquet

    for path in found:
        with _readable(path):
            rows += pyarrow.parquet.read_metadata(path).num_rows
    return rows


def source(data: "c.Data", split: str) -> str:
    return files.fingerprint(_files(data, split))


def read(data: "c.Data", split: str) -> Chunks:
    """Decoded in batches of rows, so that a file is never in memory as a whole."""
    for path in _files(data, split):
        with _readable(path):
            yield from _chunks(path, data.image_size)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError):
        raise UserError(f"{path}: not a readable Parquet file") from None


def _chunks(path: Path, image_size: int | None) -> Chunks:
    import pyarrow.parquet

    table = pyarrow.parquet.ParquetFile(path)
    image, label = _columns(table.schema_arrow, path)
    for batch in table.iter_batches(batch_size=ROWS, columns=[image, label]):
        rows = batch.column(image).field("bytes").to_pylist()
        pictures = [files.decode(row or b"", image_size, str(path)) for row in rows]
        yield files.stack(pictures, str(path)), np.asarray(batch.column(label).to_pylist(), dtype=np.int64)


def _files(data: "c.Data", split: str) -> list[Path]:
    root = files.existing_root(data.root)
    for folder in (root, root / "data"):
        for stem in STEMS[split]:
            if found := sorted(folder.glob(f"{stem}*.parquet")):
                return found
    raise UserError(f"data.root = '{root}': holds no {split}-*.parquet")


def _columns(schema: object, path: Path) -> tuple[str, str]:
    import pyarrow

    fields = list(schema)  # type: ignore[call-overload]
    images = [f.name for f in fields if pyarrow.types.is_struct(f.type) and f.type.get_field_index("bytes") >= 0]
    labels = [f.name for f in fields if pyarrow.types.is_integer(f.type)]
    labels.sort(key=lambda name: (name != "label", "label" not in name))
    if not images or not labels:
        raise UserError(f"{path}: needs a column struct<bytes, path> and an integer column; it has {', '.join(f.name for f in fields)}")
    return images[0], labels[0]
