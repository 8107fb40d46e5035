"""Small pictures, photographs, and files that hold them."""

import io
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor


def picture(seed: int, height: int = 6, width: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def photographs(side: int) -> Tensor:
    """Twelve squares of two photographs, float32 [12, 3, side, side] in whole 255ths."""
    squares = []
    for photograph in load_sample_images().images:
        whole = Image.fromarray(photograph)
        for left, top, size in (
            (0, 0, 427),
            (213, 0, 427),
            (100, 0, 300),
            (300, 100, 300),
            (50, 200, 227),
            (400, 200, 227),
        ):
            squares.append(
                np.array(whole.resize((side, side), Image.Resampling.BOX, (left, top, left + size, top + size)))
            )
    return torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).contiguous() / 255


def encoded(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def write_parquet(path: Path, images: list[bytes], labels: list[int | None], group: int | None = None) -> None:
    """In the layout of the Hugging Face hub, with `group` rows in a row group."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pyarrow.array(
        [{"bytes": row, "path": None} for row in images],
        pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())]),
    )
    columns = {"id": pyarrow.array(range(len(labels))), "img": image, "label": pyarrow.array(labels, pyarrow.int64())}
    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=group)


def write_parquets(root: Path, sizes: list[int], group: int, classes: int = 4) -> None:
    """Several train files and one test file of pictures that differ in size; picture(i) has label i % classes."""
    first = 0
    for number, size in enumerate([*sizes, 9]):
        rows = range(first, first + size)
        stem = f"train-{number:05d}-of-{len(sizes):05d}" if number < len(sizes) else "validation-00000-of-00001"
        write_parquet(
            root / "data" / f"{stem}.parquet", [numbered(i) for i in rows], [i % classes for i in rows], group
        )
        first += size


def write_folders(root: Path, count: int, classes: int = 4) -> None:
    """A train and a val folder in torchvision's layout of ImageNet; the classes are named n00, n01 ..."""
    for i in range(count + 9):
        folder = root / ("train" if i < count else "val") / f"n{i % classes:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"n{i % classes:02d}_{i:03d}.JPEG").write_bytes(numbered(i))


def numbered(i: int) -> bytes:
    return encoded(picture(i, 8 + i % 3, 8 + i % 2))
