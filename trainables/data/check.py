"""Checks a trial's data before anything starts: all labels, and a sample of the images. Needs no torch.

So a mistake in the data is found in seconds, on the machine that launches, and not by the first worker after Ray has
started.
"""

import time

import numpy as np

from trainables.config import trial as c
from trainables.config.data import Data, split_sizes
from trainables.config.errors import UserError
from trainables.config.evaluation import PROTOCOLS
from trainables.data import carving, files
from trainables.data.sets.base import DecodedSet, Encoded, EncodedSet, data_set

DECODE_EVERY = 16  # one of so many images of a bunch is decoded; of the others only the sizes are read
SECONDS = 1.5  # after which no other bunch of images is looked at
# at most, where there are fewer images than that: a classifier has a row for each class up to the largest label
LARGEST_LABEL = 100_000


def check_data(config: c.TrialConfig) -> None:
    """Raises `UserError` where the data is missing, at fault or too little, as far as a look of seconds shows."""
    check_length(config, training_images(config))


def training_images(config: c.TrialConfig) -> int:
    """Returns how many images the student learns from, once the data has been looked at.

    Raises:
        UserError: the folder is missing, its layout or its labels do not fit, an image of the sample cannot be decoded
            or has another size, or there are fewer images than asked for. The message begins with the key.
    """
    protocols = (PROTOCOLS[name] for name in config.evaluation.protocols)
    needs_classes = bool(config.method.LABELLED_VIEWS) or any(protocol.LABELS for protocol in protocols)
    with files.naming_root(config.data.root):
        return _training_images(config.data, needs_classes)


def check_length(config: c.TrialConfig, images: int) -> None:
    """Raises `UserError` where `images` training images are less than a batch, or too few or many for `c.length`."""
    require_batch(config, images)
    c.length(config, images)


def require_batch(config: c.TrialConfig, images: int) -> None:
    """Raises `UserError` where `images` training images are less than one batch."""
    train = config.train
    if images >= train.batch_size:
        return
    fits = images // train.shard_size * train.shard_size
    smaller = f"with train.shard_size = {train.shard_size} no batch fits, so set a smaller one too"
    rule = f"there are only {images} training images; {f'{fits} fits' if fits else smaller}"
    raise c.told(UserError(f"train.batch_size = {train.batch_size}: {rule}"), config.plain())


def _training_images(data: Data, needs_classes: bool) -> int:
    reader = data_set(data)
    if data.labels.file is not None:
        files.lines(data.labels.file, "data.labels.file")
    if isinstance(reader, EncodedSet):
        encoded = reader.encoded("train")
        train_images, held_out = split_sizes(data, len(encoded.labels), reader.UNLABELLED)
        labelled = _check_labels(data, encoded.labels, train_images, held_out, needs_classes)
        _check_images(data, encoded)
        return train_images - labelled * data.labels.apart
    assert isinstance(reader, DecodedSet)
    count = reader.check()
    train_images, held_out = split_sizes(data, count, reader.UNLABELLED)
    bank = train_images if data.train_split == "train" else count - held_out
    labelled = _check_labels_unseen(data, count, bank, reader.CLASSES)
    return train_images - labelled * (data.labels.apart and data.train_split != "unlabelled")


def _check_labels(data: Data, labels: np.ndarray, train_images: int, held_out: int, needs_classes: bool) -> int:
    """Checks the labels int64 [N] of all stored train images: their range, and whether there are enough.

    Returns:
        How many images `data.labels` chooses.
    """
    present = np.unique(labels[labels >= 0])
    if len(present) and present[-1] >= max(LARGEST_LABEL, len(labels)):
        rule = f"classes are numbered from 0, and there are only {len(labels)} images"
        raise UserError(f"data.root = '{data.root}': a train image has label {present[-1]}; {rule}")
    if needs_classes and len(present) == 1:
        where = f"data.root = '{data.root}'" if data.classes is None else f"data.classes = {_shown_classes(data)}"
        raise UserError(f"{where}: all train images are of one class; scores by labels need two classes")
    named = _named(data)
    _, others = carving.carved(data, labels, held_out, named)
    rows = others[:train_images]
    bank = labels[rows]
    if named is not None and (lacking := len(named) - int(np.isin(named, rows[bank >= 0]).sum())):
        raise UserError(
            f"data.labels.file = '{data.labels.file}': {lacking} of {len(named)} are no labelled training images"
        )
    numbers, counts = np.unique(bank[bank >= 0], return_counts=True)
    if (wanted := data.labels.per_class) and len(counts) and counts.min() < wanted:
        fewest = int(counts.argmin())
        rule = f"class {numbers[fewest]} has only {counts[fewest]} training images"
        raise UserError(f"data.labels.per_class = {wanted}: {rule}")
    return len(named) if named is not None else sum(_chosen_of(data, int(images)) for images in counts)


def _check_labels_unseen(data: Data, count: int, bank: int, classes: int) -> int:
    """Checks what can be known of labels before they are read.

    Args:
        data: of the trial.
        count: how many train images are stored.
        bank: how many of them evaluations and methods may learn from.
        classes: how many classes they have.

    Returns:
        How many images `data.labels` chooses; of a share about as many, for the classes may differ in size.
    """
    if (named := _named(data)) is not None:
        carving.require_there(data, named, count)
    if (wanted := data.labels.per_class) and wanted * classes > bank:
        raise UserError(
            f"data.labels.per_class = {wanted}: {classes} classes have only {bank} training images together"
        )
    return len(named) if named is not None else classes * _chosen_of(data, bank // classes)


def _chosen_of(data: Data, images: int) -> int:
    """How many images of a class `data.labels` chooses."""
    return data.labels.per_class or max(1, round((data.labels.share or 1.0) * images))


def _named(data: Data) -> np.ndarray | None:
    """Returns the rows of the stored train split that `data.labels.file` names; None where there is no such file."""
    reader = data_set(data)
    return (
        None if data.labels.file is None else carving.listed(data.labels.file, reader.names if reader.NAMED else None)
    )


def _check_images(data: Data, images: Encoded) -> None:
    """Checks a sample of the images: some are decoded, and of the others the sizes are read."""
    end = time.monotonic() + SECONDS
    sizes: dict[tuple[int, int], str] = {}
    for bunch in images.sample():
        for position, (encoded, where) in enumerate(bunch):
            if position % DECODE_EVERY == 0 or position == len(bunch) - 1:
                files.decode(encoded, data.image_size, where, data.resize)
            sizes.setdefault(_size(encoded, where), where)
            if data.image_size is None and len(sizes) > 1:
                some = " and ".join(f"{width}x{height} ({place})" for (width, height), place in sizes.items())
                smallest = min(min(size) for size in sizes)
                rule = f"must be given, such as {smallest}, for the images of '{data.root}' differ in size"
                raise UserError(f"data.image_size: {rule}: {some}")
        if time.monotonic() > end:
            return


def _size(encoded: bytes, where: str) -> tuple[int, int]:
    """Returns width and height, which the head of the file holds."""
    with files.opened(encoded, where) as image:
        return image.size


def _shown_classes(data: Data) -> str:
    return f"'{data.classes}'" if not isinstance(data.classes, tuple) else f"[{', '.join(data.classes)}]"
