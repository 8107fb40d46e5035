"""What a step must know of a trial's data: how many images there are, their shape, and their classes."""

from dataclasses import dataclass

from trainables.config import trial as c
from trainables.config.data import split_sizes
from trainables.config.errors import UserError
from trainables.data import files
from trainables.data.check import training_images
from trainables.data.sets.base import DecodedSet, EncodedSet, data_set
from trainables.data.sets.base_torchvision import TorchvisionSet

CLASSES = 10  # of data whose labels are not read
CHANNELS = 3  # of decoded images


@dataclass(frozen=True)
class Stored:
    """Facts of a trial's data.

    Attributes:
        images: that the student learns from.
        shape: height, width and channels of an image.
        classes: how many there are.
    """

    images: int
    shape: tuple[int, int, int]
    classes: int


@dataclass(frozen=True)
class Known:
    """The same facts as far as they are known without the data; None where they are not."""

    images: int | None
    shape: tuple[int, int, int]
    classes: int | None


def looked_at(config: c.TrialConfig) -> Stored:
    """The facts of data that are there. Of image files one is decoded, for their size may not be known.

    Raises:
        UserError: the data are missing or at fault.
    """
    count, reader = training_images(config), data_set(config.data)
    if isinstance(reader, DecodedSet):
        return Stored(count, reader.SHAPE, reader.CLASSES)
    assert isinstance(reader, EncodedSet)
    encoded = reader.encoded("train")
    try:
        with files.naming_root(config.data.root):
            stored, where = next(encoded.sample())[0]
            height, width, channels = files.decode(stored, config.data.image_size, where, config.data.resize).shape
    finally:
        encoded.close()
    labels = encoded.labels
    return Stored(count, (height, width, channels), max(2, int(labels.max()) + 1) if len(labels) else CLASSES)


def known(config: c.TrialConfig) -> Known:
    """The facts of data that may not be there: what their reader says of itself, and what the configuration says.

    Raises:
        UserError: the data are missing, and the size of their images is not configured.
    """
    reader = data_set(config.data)
    if isinstance(reader, DecodedSet):
        images = None
        if isinstance(reader, TorchvisionSet):
            images = split_sizes(config.data, reader.TRAIN_IMAGES, reader.UNLABELLED)[0]
        return Known(images or training_images(config), reader.SHAPE, reader.CLASSES)
    try:
        found = looked_at(config)
    except UserError as error:
        size, chosen = config.data.image_size, config.data.classes
        if size is None:
            rule = f"must be given, such as 224, where the data are missing ({str(error).splitlines()[0]})"
            raise UserError(f"data.image_size: {rule}") from None
        listed = chosen if chosen is None or isinstance(chosen, tuple) or chosen.is_file() else None
        named = files.chosen_classes(listed)
        return Known(None, (size, size, CHANNELS), len(named) if named else None)
    return Known(found.images, found.shape, found.classes)
