"""What it costs to stream images in place of reading decoded ones, side by side: `python -m benchmarks.data`.

It writes a set of JPEGs of 96 to 160 pixels twice, as folders and as Parquet, and takes an epoch of batches of each
kind in turn: by itself, and beside a step of a fixed length, during which the next batches are decoded. Of all rounds
the fastest counts. Memory is what the process gained in anonymous pages while it did so: decoded images are pages of a
file, which the system may take back at any time. The table of the last run is in benchmarks/data.md.
"""

import argparse
import io
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from PIL import Image

from trainables.config import trial as c
from trainables.data import images as data

CPU = torch.device("cpu")
SIZE, CLASSES, GROUP = (
    96,
    10,
    100,
)  # of a decoded image; classes; rows of a row group, as the Hugging Face hub writes images
VARIANTS: dict[str, dict[str, Any]] = {  # the first is what the others are measured against
    "folders, decoded": {"name": "imagefolder"},
    "folders, 1 loader": {"name": "imagefolder", "streamed": True, "loaders": 1},
    "folders, 2 loaders": {"name": "imagefolder", "streamed": True, "loaders": 2},
    "folders, 4 loaders": {"name": "imagefolder", "streamed": True, "loaders": 4},
    "Parquet, 1 loader": {"name": "parquet", "streamed": True, "loaders": 1, "window": 1024},
    "Parquet, 4 loaders": {"name": "parquet", "streamed": True, "loaders": 4, "window": 1024},
}


def write(root: Path, images: int) -> int:
    """The set as `imagefolder` and as `parquet`; returns the bytes of its JPEGs."""
    draws = np.random.default_rng(0)
    rows = []
    for i in range(images):
        width, height = draws.integers(SIZE, 160, 2, endpoint=True).tolist()
        coarse = Image.fromarray(draws.integers(0, 256, (12, 12, 3), dtype=np.uint8)).resize(
            (width, height), Image.Resampling.BICUBIC
        )
        stream = io.BytesIO()
        coarse.save(stream, "JPEG", quality=90)
        rows.append({"bytes": stream.getvalue(), "path": None})
        file = root / "imagefolder" / "train" / f"n{i % CLASSES}" / f"{i}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(stream.getvalue())
    (root / "parquet").mkdir()
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    table = pyarrow.table(
        {
            "image": pyarrow.array(rows, kind),
            "label": pyarrow.array([i % CLASSES for i in range(images)], pyarrow.int64()),
        }
    )
    pyarrow.parquet.write_table(table, root / "parquet" / "train-00000-of-00001.parquet", row_group_size=GROUP)
    return sum(len(row["bytes"]) for row in rows)


def step(seconds: float) -> None:
    """Arithmetic for so long, on one thread, that lets go of Python's lock as a training step does."""
    ends, a = time.perf_counter() + seconds, torch.ones(256, 256)
    while time.perf_counter() < ends:
        torch.mm(a, a)


def anonymous() -> float:
    """MiB of this process's memory that no file stands behind."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


def epoch(images: data.Images, key: int, batch: int, seconds: float) -> tuple[float, float]:
    """Images a second of one epoch with a step of some seconds after each batch, and the most MiB that were gained."""
    before, most, order = anonymous(), 0.0, images.order(key)
    began = time.perf_counter()
    images.expect(order, 2 * batch)
    for indices in order.split(batch):
        images.batch(indices, CPU, torch.float32)
        step(seconds)
        most = max(most, anonymous() - before)
    spent = time.perf_counter() - began
    images.close()
    return len(order) / spent, most


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data", description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--step", type=float, default=0.2, help="seconds")
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TEACHER_TUNER_CACHE"] = f"{folder}/cache"
        stored = write(Path(folder), given.images)
        sets, opened = {}, {}
        for name, values in VARIANTS.items():
            began = time.perf_counter()
            sets[name] = data.load(
                c.Data(root=Path(folder) / values["name"], image_size=SIZE, validation_images=1, **values), "train"
            )
            opened[name] = time.perf_counter() - began
        decoded = given.images * SIZE * SIZE * 3
        print(
            f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}; ",
            f"{given.images} JPEGs: {stored / 2**20:.0f} MiB, ",
            sep="",
            end="",
        )
        print(
            f"decoded {decoded / 2**20:.0f} MiB; batches of {given.batch}, "
            f"steps of {1000 * given.step:.0f} ms, {given.rounds} rounds\n"
        )
        print("| images | opened in s | images/s | ratio | beside steps | ratio | MiB |\n|---|---|---|---|---|---|---|")
        alone, beside = (
            [[epoch(images, key, given.batch, s) for images in sets.values()] for key in range(given.rounds)]
            for s in (0, given.step)
        )
        for place, name in enumerate(sets):
            fast, busy = (max(row[place][0] for row in rows) for rows in (alone, beside))
            first, second = (max(row[0][0] for row in rows) for rows in (alone, beside))
            most = max(row[place][1] for row in alone + beside)
            print(
                f"| {name} | {opened[name]:.2f} | {fast:.0f} | {fast / first:.3f} "
                f"| {busy:.0f} | {busy / second:.3f} | {most:.0f} |"
            )


if __name__ == "__main__":
    main()
