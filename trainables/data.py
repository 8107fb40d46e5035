"""Images as trials see them: decoded once, kept as uint8 in a file that all trials of a node share through the page cache."""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trainables import config as c
from trainables import discovery, keyed
from trainables.datasets import Chunks
from trainables.errors import UserError

ON_DEVICE = 2 * 2**30  # a split of up to so many bytes lives on the GPU
LAYOUT = 1  # of the cache's files
MARK = ".teacher-tuner-downloaded"  # in a folder whose download was read as a whole


@dataclass(frozen=True)
class Images:
    """A split: the `rows` of stored uint8 images [*, H, W, C] (on disk, in memory or on a device) and their labels int64 [N]."""

    pixels: Tensor
    rows: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def channels(self) -> int:
        return self.pixels.shape[-1]

    @property
    def classes(self) -> int:
        return int(self.labels.max()) + 1

    def batch(self, indices: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Images [n, C, H, W] in [0, 1], channels_last in memory, for indices in the split."""
        chosen = self.pixels[self.rows[indices].to(self.pixels.device)].to(device, non_blocking=True)
        return chosen.permute(0, 3, 1, 2).to(dtype) / 255

    def to(self, device: torch.device) -> "Images":
        """Moved to a GPU where it is small enough for that."""
        if device.type != "cuda" or len(self) * self.pixels[0].numel() > ON_DEVICE:
            return self
        return Images(self.pixels[self.rows].to(device), torch.arange(len(self)), self.labels)


def load(data: "c.Data", split: str) -> Images:
    """The "train", "validation" or "test" images.

    Validation images (a tenth of train, or `validation_images`) are carved out of the stored train split, by `split_seed` alone, so that
    all trials of a search share them; `train_images` limits what is left.

    Raises:
        UserError: the files are missing or damaged, or there are fewer images than asked for.
    """
    stored = _stored(data, "test" if split == "test" else "train")
    if split == "test":
        return stored
    wanted, held_out = c.split_sizes(data, len(stored))
    order = np.random.default_rng(data.split_seed).permutation(len(stored))
    chosen = order[:held_out] if split == "validation" else order[held_out : held_out + wanted]
    index = torch.from_numpy(np.sort(chosen))
    return Images(stored.pixels, index, stored.labels[index])


def labelled(images: Images, wanted: c.Labels) -> Tensor:
    """The training images that have labels: sorted indices int64 [n] in their split.

    Raises:
        UserError: a class has fewer images than asked for, or a file does not hold indices of training images.
    """
    if wanted.file is not None:
        return _listed(images, wanted.file)
    chosen = []
    for label in images.labels.unique().tolist():
        own = (images.labels == label).nonzero()[:, 0]
        count = wanted.per_class or max(1, round((wanted.share or 1.0) * len(own)))
        if count > len(own):
            raise UserError(f"data.labels.per_class = {count}: class {label} has only {len(own)} training images")
        chosen.append(own[keyed.permutation(len(own), wanted.seed, label, "labels")[:count]])
    return torch.cat(chosen).sort().values


def cycled(indices: Tensor, places: range, *key: int | str) -> tuple[Tensor, Tensor]:
    """What lies at some places of an endless stream, which goes round by round through `indices` [n], each time in a keyed order.

    Returns:
        The indices there, and their rounds: int64 [len(places)] each.
    """
    at = torch.arange(places.start, places.stop)
    rounds, within = at // len(indices), at % len(indices)
    chosen = torch.empty_like(at)
    for number in rounds.unique().tolist():
        order = keyed.permutation(len(indices), *key, number)
        chosen[rounds == number] = indices[order[within[rounds == number]]]
    return chosen, rounds


def _listed(images: Images, file: Path) -> Tensor:
    try:
        wanted = torch.tensor([int(line) for line in file.read_text().split()], dtype=torch.int64)
    except OSError as error:
        raise UserError(f"data.labels.file = '{file}': cannot be read ({error.strerror})") from None
    except ValueError:
        raise UserError(f"data.labels.file = '{file}': must hold an index on each line") from None
    found = torch.isin(images.rows, wanted).nonzero()[:, 0]
    if len(found) < len(wanted) or not len(found):
        raise UserError(f"data.labels.file = '{file}': {len(wanted) - len(found)} of {len(wanted)} indices are no training images")
    return found


def cache_folder() -> Path:
    """Where decoded images are kept: $TEACHER_TUNER_CACHE, or teacher-tuner in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "teacher-tuner"
    return Path(os.environ.get("TEACHER_TUNER_CACHE") or default)


def _stored(data: "c.Data", split: str) -> Images:
    reader = discovery.load("datasets", data.name)
    if data.download and data.root is not None:  # by one worker, while the others wait; then there is a fingerprint to be cached under
        with _locked(data.root / ".teacher-tuner.lock"):
            if reader.source(data, split) is None or not (data.root / MARK).exists():
                list(reader.read(data, split))
                (data.root / MARK).touch()
    source = reader.source(data, split)
    if source is None:
        chunks = list(reader.read(data, split))
        return _images(np.concatenate([images for images, _ in chunks]), np.concatenate([labels for _, labels in chunks]))
    key = hashlib.sha256(json.dumps([LAYOUT, data.name, split, data.image_size, source]).encode()).hexdigest()[:20]
    folder = cache_folder() / key
    with _locked(folder.with_suffix(".lock")):
        if not folder.is_dir():
            _decode_to(folder, reader.read(data, split))
    shape = json.loads((folder / "shape.json").read_text())
    pixels = np.memmap(folder / "images.u8", np.uint8, "c", shape=tuple(shape))
    return _images(pixels, np.fromfile(folder / "labels.i64", np.int64))


def _images(pixels: np.ndarray, labels: np.ndarray) -> Images:
    return Images(torch.from_numpy(pixels), torch.arange(len(labels)), torch.from_numpy(labels))


def _decode_to(folder: Path, chunks: Chunks) -> None:
    """Writes the cache beside its place, then renames it there: it is there as a whole or not at all."""
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        count, shape = 0, ()
        with (temporary / "images.u8").open("wb") as pixels, (temporary / "labels.i64").open("wb") as labels:
            for images, answers in chunks:
                if count and images.shape[1:] != shape:
                    raise UserError(f"data.image_size: must be given, the images differ in size ({shape} and {images.shape[1:]})")
                count, shape = count + len(images), images.shape[1:]
                np.ascontiguousarray(images).tofile(pixels)
                answers.tofile(labels)
        if not count:
            raise UserError("data.root: its files hold no images")
        (temporary / "shape.json").write_text(json.dumps([count, *shape]))
        temporary.chmod(0o755)  # a cache may be shared by users
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
