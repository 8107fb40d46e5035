"""The SGD loop of protocols that train a classifier: cross entropy, and a learning rate that follows the batch."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.config import schedules
from trainables.config.durations import Length
from trainables.config.sections import Schedule
from trainables.data import progress

Batches = Callable[[int, int], Iterable[tuple[Tensor, Tensor]]]
"""(epoch, batch size) -> logits [n, classes], with gradient, and labels int64 [n] of each batch of the epoch."""


class Options(Protocol):
    """What the loop must know of a protocol. `lr` is of `base_batch`, or of the batch itself where that is None."""

    @property
    def epochs(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def base_batch(self) -> int | None: ...
    @property
    def lr(self) -> Schedule: ...
    @property
    def momentum(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def every_epochs(self) -> int: ...


def measured_epochs(
    options: Options, groups: list[dict[str, Any]], count: int, batches: Batches, what: str
) -> Iterator[int]:
    """Trains in place, and stops after each epoch that is to be measured: every `every_epochs` epochs, and the last.

    Args:
        options: of the protocol.
        groups: parameters of the optimiser, each with the `factor` of its learning rate.
        count: how many images there are; a batch is at most that large.
        batches: makes the logits of an epoch.
        what: is done, for `progress`.

    Yields:
        The number of the epoch, from 1.
    """
    size = min(options.batch_size, count)
    scale, per_epoch = size / (options.base_batch or size), count // size
    run = Length(options.epochs * per_epoch, per_epoch)
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=options.momentum, weight_decay=options.weight_decay)
    for epoch in progress.steps(what, range(options.epochs)):
        for position, (logits, labels) in enumerate(batches(epoch, size)):
            lr = scale * schedules.at(options.lr, epoch * per_epoch + position, run)
            for group in optimizer.param_groups:
                group["lr"] = lr * group["factor"]
            optimizer.zero_grad()
            F.cross_entropy(logits, labels).backward()
            optimizer.step()
        if (epoch + 1) % options.every_epochs == 0 or epoch + 1 == options.epochs:
            yield epoch + 1
