"""Images as trials see them. They are streamed, or decoded once and kept in a file.

That file holds uint8 pixels, and all trials of a node share it through the page cache.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trainables.config.data import Data, Labels, split_sizes
from trainables.config.errors import UserError
from trainables.data import carving, files, keyed, progress, pulse
from trainables.data.lock import locked
from trainables.data.pictures import Pictures
from trainables.data.sets.base import Chunks, EncodedSet, data_set
from trainables.data.stream import Stream

ON_DEVICE = 2 * 2**30  # bytes of a split that is kept on the GPU, at most
LAYOUT = 1  # of the cache's files
WHOLE = 2  # side of a whole image that crops are taken of, over that of a view: about the resolution of ImageNet
MARK = ".teacher-tuner-downloaded"  # a file in a folder whose download was read to its end


@dataclass(frozen=True)
class Images:
    """A split of a stored data set.

    Attributes:
        pixels: stored uint8 images [*, H, W, C]: on disk, in memory, on a device, or a stream that decodes them.
        rows: int64 [N], the rows of the stored split that belong to this one.
        labels: int64 [N]; a label below 0 means that the image has none.
        at: int64 [N], places of the images in `pixels`; None where they lie at their rows.
        names: returns the names of all stored images; None where images have no names.
    """

    pixels: Tensor | Stream
    rows: Tensor
    labels: Tensor
    at: Tensor | None = None
    names: Callable[[], Sequence[str]] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def channels(self) -> int:
        return self.pixels.shape[-1]

    @property
    def classes(self) -> int:
        """One more than the largest label."""
        return int(self.labels.max()) + 1

    def batch(self, indices: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Returns images [n, C, H, W] in [0, 1], channels_last in memory, for indices in the split."""
        pulse.beat()  # every image that is trained on or scored passes here
        chosen = self.pixels[self._places[indices].to(self.pixels.device)].to(device, non_blocking=True)
        return chosen.permute(0, 3, 1, 2).to(dtype) / 255

    def pictures(self, indices: Tensor, device: torch.device, dtype: torch.dtype) -> Pictures:
        """Returns what random crops are taken of, for indices in the split: whole images if the split has them."""
        if not isinstance(self.pixels, Stream) or self.pixels.whole is None:
            return Pictures(self.batch(indices, device, dtype))
        pulse.beat()
        pixels, shapes = self.pixels.squeezed(self._places[indices])
        pixels, shapes = pixels.to(device, non_blocking=True), shapes.to(device, dtype)
        return Pictures(pixels.permute(0, 3, 1, 2).to(dtype) / 255, self.pixels.shape[1], shapes)

    def order(self, *key: int | str) -> Tensor:
        """Returns a random order of the indices, int64 [N], a function of the key alone.

        Images of a streamed row group stay together within a window.
        """
        return (
            self.pixels.order(self.rows, *key)
            if isinstance(self.pixels, Stream)
            else keyed.permutation(len(self), *key)
        )

    def expect(self, indices: Tensor, ahead: int, cropped: bool = False) -> None:
        """Says what will be asked for, in this order, so that a stream decodes `ahead` images early. No result changes.

        Args:
            indices: int64 in the split.
            ahead: how many are decoded early.
            cropped: whether `pictures` will be asked for, and not `batch`.
        """
        if isinstance(self.pixels, Stream):
            self.pixels.expect(self.rows[indices], ahead, cropped)

    def close(self) -> None:
        """Ends the threads of a stream, until it is used again."""
        if isinstance(self.pixels, Stream):
            self.pixels.close()

    def part(self, chosen: Tensor) -> "Images":
        """Returns the images at some indices."""
        return replace(
            self, rows=self.rows[chosen], labels=self.labels[chosen], at=None if self.at is None else self.at[chosen]
        )

    def to(self, device: torch.device) -> "Images":
        """Returns the split on a GPU, if it is small enough for that."""
        if device.type == "cpu" or isinstance(self.pixels, Stream) or len(self) * self.pixels[0].numel() > ON_DEVICE:
            return self
        return replace(self, pixels=self.pixels[self._places].to(device), at=torch.arange(len(self)))

    @property
    def _places(self) -> Tensor:
        return self.rows if self.at is None else self.at


def class_names(data: Data, classes: int) -> list[str]:
    """Returns the names of the classes, in the order of the labels; their numbers where the data set lacks names."""
    names = list(data_set(data).class_names())
    return names if len(names) == classes else list(map(str, range(classes)))


def load(data: Data, split: str) -> Images:
    """Returns one of `splits`."""
    return splits(data, split)[0]


def splits(data: Data, *names: str) -> list[Images]:
    """Returns splits by name. Each stored split is opened once.

    "train": what the student learns from, which is `train_images` of the `train_split`, without validation and, if
    `labels.apart`, without the images that have labels. "bank": what evaluations learn from, which is train with these,
    or the labelled images of the stored train split, without validation. "validation": a tenth of the stored train
    split, or `validation_images`. It is a function of `split_seed` alone, so all trials of a search share it. Images
    without a label, and those that `labels.file` names, stay in train. "test": stored by itself.

    Raises:
        UserError: the files are missing or damaged, or there are fewer images than asked for.
    """
    made = _Splits(data)
    return [getattr(made, name) for name in names]


class _Splits:
    def __init__(self, data: Data):
        self._data = data

    @cached_property
    def test(self) -> Images:
        images = _stored(self._data, "test")
        if (images.labels < 0).any():
            raise UserError(f"data.root = '{self._data.root}': some test images have no label")
        return images

    @cached_property
    def validation(self) -> Images:
        return self._stored.part(self._carved[0].sort().values)

    @cached_property
    def train(self) -> Images:
        images, wanted = self._chosen, self._data.labels
        if not wanted.apart or self._data.train_split == "unlabelled":
            return images
        apart = self.bank.rows[labelled(self.bank, wanted)]
        return images.part((~torch.isin(images.rows, apart)).nonzero()[:, 0])

    @cached_property
    def _chosen(self) -> Images:
        """What the student learns from, labelled images included."""
        images, pool = self._learnt, self._carved[1]
        if self._data.train_split != "train":
            others = torch.arange(len(images) - self._unlabelled, len(images))
            pool = torch.cat([pool, others]) if self._data.train_split == "both" else others
            pool = pool[torch.from_numpy(carving.permutation(len(pool), self._data))]
        return images.part(pool[: self._sizes[0]].sort().values)

    @cached_property
    def bank(self) -> Images:
        images = self._chosen if self._data.train_split == "train" else self._stored.part(self._carved[1].sort().values)
        has_label = images.labels >= 0
        return images if has_label.all() else images.part(has_label.nonzero()[:, 0])

    @cached_property
    def _stored(self) -> Images:
        return _stored(self._data, "train")

    @cached_property
    def _learnt(self) -> Images:
        """The stored split that train is a part of. If it holds train images, they are its first rows."""
        return self._stored if self._data.train_split == "train" else _stored(self._data, self._data.train_split)

    @property
    def _unlabelled(self) -> int:
        return {"train": 0, "unlabelled": len(self._learnt), "both": len(self._learnt) - len(self._stored)}[
            self._data.train_split
        ]

    @cached_property
    def _sizes(self) -> tuple[int, int]:
        return split_sizes(self._data, len(self._stored), self._unlabelled)

    @cached_property
    def _carved(self) -> tuple[Tensor, Tensor]:
        """Rows of the stored train split in random order: validation, and all others. See `carving.carved`."""
        images, file = self._stored, self._data.labels.file
        named = None if file is None else carving.listed(file, images.names)
        held, others = carving.carved(self._data, images.labels.numpy(), self._sizes[1], named)
        return torch.from_numpy(held), torch.from_numpy(others)


def labelled(images: Images, labels: Labels) -> Tensor:
    """Returns the images of a split whose labels a trial may use: sorted indices int64 [n] in the split.

    They are a function of the split and the seed alone.

    Raises:
        UserError: a class has fewer images than asked for, no image has a label, or a file names an image that is not
            in the split.
    """
    if labels.file is not None:
        rows = torch.from_numpy(carving.listed(labels.file, images.names))
        chosen_by_file = (torch.isin(images.rows, rows) & (images.labels >= 0)).nonzero()[:, 0]
        if len(chosen_by_file) < len(rows):
            lacking = f"{len(rows) - len(chosen_by_file)} of {len(rows)} are no labelled training images"
            raise UserError(f"data.labels.file = '{labels.file}': {lacking}")
        return chosen_by_file
    chosen = []
    for label in images.labels[images.labels >= 0].unique().tolist():
        of_class = (images.labels == label).nonzero()[:, 0]
        count = labels.per_class or max(1, round((labels.share or 1.0) * len(of_class)))
        if count > len(of_class):
            raise UserError(f"data.labels.per_class = {count}: class {label} has only {len(of_class)} training images")
        chosen.append(of_class[keyed.permutation(len(of_class), labels.seed, label, "labels")[:count]])
    if not chosen:
        raise UserError("data.labels: no training image has a label")
    return torch.cat(chosen).sort().values


def cycled(count: int, places: range, *key: int | str) -> tuple[Tensor, Tensor]:
    """Returns what lies at some places of an endless stream of rounds. A round is range(count) in a keyed order.

    Returns:
        The indices there, and their rounds: int64 [len(places)] each.
    """
    at = torch.arange(places.start, places.stop)
    rounds, within = at // count, at % count
    chosen = torch.empty_like(at)
    for number in rounds.unique().tolist():
        of_round = rounds == number
        chosen[of_round] = keyed.permutation(count, *key, number)[within[of_round]]
    return chosen, rounds


def _stored(data: Data, split: str) -> Images:
    """Returns all images of a stored split: "train", "test", "unlabelled" or "both"."""
    with files.naming_root(data.root):
        return _opened(data, split)


def _opened(data: Data, split: str) -> Images:
    reader = data_set(data)
    names = reader.names if reader.NAMED and split == "train" else None
    if data.streamed:
        assert isinstance(reader, EncodedSet) and data.image_size is not None
        encoded = reader.encoded(split)
        if not len(encoded.labels):
            raise UserError("data.root: its files hold no images")
        whole = WHOLE * data.image_size if data.crops == "whole" else None
        stream = Stream(encoded, data.image_size, data.loaders, data.window, data.resize, whole)
        return Images(stream, torch.arange(len(encoded.labels)), torch.from_numpy(encoded.labels), names=names)
    # one worker downloads while the others wait; the files then have a fingerprint, under which they are cached
    if data.download and data.root is not None:
        with pulse.unmeasured(), locked(data.root / ".teacher-tuner.lock"):
            if reader.source(split) is None or not (data.root / MARK).exists():
                list(reader.read(split))
                (data.root / MARK).touch()
    source = reader.source(split)
    if source is None:
        chunks = list(reader.read(split))
        return _decoded(
            np.concatenate([images for images, _ in chunks]), np.concatenate([labels for _, labels in chunks]), names
        )
    made_of = [LAYOUT, data.name, split, data.image_size, source, *([] if data.resize is None else [data.resize])]
    key = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:20]
    folder = files.cache_folder() / key
    with locked(folder.with_suffix(".lock")) as moved:
        if not folder.is_dir():
            _decode_to(folder, reader.read(split), moved)
    shape = json.loads((folder / "shape.json").read_text())
    pixels = np.memmap(folder / "images.u8", np.uint8, "c", shape=tuple(shape))
    return _decoded(pixels, np.fromfile(folder / "labels.i64", np.int64), names)


def _decoded(pixels: np.ndarray, labels: np.ndarray, names: Callable[[], Sequence[str]] | None) -> Images:
    return Images(torch.from_numpy(pixels), torch.arange(len(labels)), torch.from_numpy(labels), names=names)


def _decode_to(folder: Path, chunks: Chunks, moved: Callable[[], None]) -> None:
    """Writes the cache beside its place, then renames it, so that it is complete or missing.

    `moved` is called after each chunk.
    """
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        count, shape = 0, ()
        with (temporary / "images.u8").open("wb") as pixels, (temporary / "labels.i64").open("wb") as labels:
            for images, answers in chunks:
                if count and images.shape[1:] != shape:
                    raise UserError(
                        f"data.image_size: must be given, the images differ in size ({shape} and {images.shape[1:]})"
                    )
                count, shape = count + len(images), images.shape[1:]
                progress.tell("images decoded", count)
                moved()
                np.ascontiguousarray(images).tofile(pixels)
                answers.tofile(labels)
        if not count:
            raise UserError("data.root: its files hold no images")
        (temporary / "shape.json").write_text(json.dumps([count, *shape]))
        temporary.chmod(0o755)  # a cache may be shared by users
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
