"""Makes the batches of a trial's steps: images, their views, and their labels."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from trainables.config.trial import TrialConfig
from trainables.data import augment
from trainables.data import images as data
from trainables.data.images import Images
from trainables.data.pieces import Piece

Stream = Literal["images", "labelled"]
BATCHES_AHEAD = 2  # batches of a stream that are decoded before they are asked for


class Batch(NamedTuple):
    """Pictures of some shards.

    Attributes:
        pictures: [samples, C, H, W] of each piece that the method looks at, ordered by shard.
        labels: int64 [samples] of each stream; -1 where a picture has no label.
    """

    pictures: Mapping[Piece, Tensor]
    labels: Mapping[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Feed:
    """The batches of one worker. Each is a function of configuration, images, epoch and place.

    Attributes:
        config: of the trial, as its Learner has it.
        images: what the student learns from.
        labelled: the images with labels, where the method learns from labels. They are a stream of their own.
        passes: the shards of each forward of this worker, in order.
        device: where pictures are made.
        dtype: of the pictures.
    """

    config: TrialConfig
    images: Images
    labelled: Images | None
    passes: Sequence[range]
    device: torch.device
    dtype: torch.dtype

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch. The last partial batch is dropped."""
        return len(self.images) // self.config.train.batch_size

    def batches(self, order: Tensor, at: int, epoch: int) -> Iterator[Batch]:
        """Yields the pictures of a step, one Batch for each of `passes`.

        Args:
            order: the epoch's order of the images, int64 [N].
            at: index of the step within the epoch.
            epoch: index of the epoch, from 0.
        """
        start, size = at * self.config.train.batch_size, self.config.train.shard_size
        for shards in self.passes:
            samples = order[start + shards.start * size : start + shards.stop * size]
            batch = self._of_images(samples, epoch)
            yield (
                batch if self.labelled is None else _joined(batch, self._of_labelled(self.labelled, shards, at, epoch))
            )

    def coming(self, order: Tensor, position: int) -> tuple[Tensor, int]:
        """Returns what this worker will ask for in the rest of an epoch, for `Images.expect`.

        Args:
            order: the epoch's order of the images, int64 [N].
            position: index of the next step within the epoch.

        Returns:
            The indices in the order of use, and how many of them are to be decoded ahead.
        """
        size, batch_size = self.config.train.shard_size, self.config.train.batch_size
        first, last = self.passes[0].start * size, self.passes[-1].stop * size
        steps = order[: self.per_epoch * batch_size].view(self.per_epoch, batch_size)
        mine = steps[position:, first:last]
        return mine.flatten(), BATCHES_AHEAD * mine.shape[1]

    def _of_images(self, samples: Tensor, epoch: int) -> Batch:
        config = self.config
        pictures = self.images.pictures(samples, self.device, self.dtype)
        views = augment.views(pictures, samples, config.method.views, config.views, config.seed, epoch)
        return _batch("images", views, self.images.labels[samples].to(self.device))

    def _of_labelled(self, labelled: Images, shards: range, at: int, epoch: int) -> Batch:
        """The labelled pictures of some shards. Their place in the endless stream is a function of the step."""
        config, count = self.config, self.config.method.labelled_in(self.config.train.shard_size)
        first = (epoch * self.per_epoch + at) * count * config.train.num_shards
        places = range(first + shards.start * count, first + shards.stop * count)
        chosen, rounds = data.cycled(len(labelled), places, config.seed, "labelled")
        pictures = labelled.pictures(chosen, self.device, self.dtype)
        keys = chosen + rounds * len(labelled)  # an image that comes back within a step comes in another view
        views = augment.views(pictures, keys, config.method.LABELLED_VIEWS, config.views, config.seed, "labelled")
        return _batch("labelled", views, labelled.labels[chosen].to(self.device))


def _batch(stream: Stream, views: Sequence[Tensor], labels: Tensor) -> Batch:
    return Batch({Piece(stream, number): view for number, view in enumerate(views)}, {stream: labels})


def _joined(first: Batch, second: Batch) -> Batch:
    return Batch({**first.pictures, **second.pictures}, {**first.labels, **second.labels})


def with_known_labels(config: TrialConfig, train: Images) -> Images:
    """Returns the same images without the labels that `data.labels` leaves out, so that no online probe sees them.

    Where the labelled images lie apart, no label is left.
    """
    if config.data.labels.everything or not config.online_probe.lr or (train.labels < 0).all():
        return train
    labels = torch.full_like(train.labels, -1)
    if not config.data.labels.apart:
        known = data.labelled(train, config.data.labels)
        labels[known] = train.labels[known]
    return dataclasses.replace(train, labels=labels)


def labelled_images(config: TrialConfig, bank: Images) -> Images | None:
    """Returns the images of `bank` that have a label, or None where the method learns from no labels."""
    return bank.part(data.labelled(bank, config.data.labels)) if config.method.LABELLED_VIEWS else None
