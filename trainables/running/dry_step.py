"""A dry step: what a step of a trial costs on this machine, measured on made-up images.

`python -m trainables.running.dry_step` reads a `Request` as JSON from standard input and prints a `Cost` as JSON. It is
a process of its own, because the peak of a process's memory is that of all that it ever did.
"""

import dataclasses
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from trainables.config import trial as c
from trainables.config.errors import UserError
from trainables.data.feed import Feed
from trainables.data.images import Images
from trainables.learning.learner import Learner
from trainables.networks.group import Group, default_device
from trainables.running import initial_network
from trainables.running.messages import Cost
from trainables.running.preparation import make_deterministic
from trainables.running.resolve import resolved
from trainables.running.stored import Stored, looked_at

MOST_STEPS = 4  # that are made; the first is not timed
SECONDS = 20.0  # after which no other step is begun
MADE_UP = 512  # different images, at most


@dataclass(frozen=True)
class Request:
    """What is to be measured.

    Attributes:
        trial: its configuration, as nested values.
        workers: of the trial. The step is that of the first one, who has the most shards.
        threads: CPU threads of a worker.
        stored: the facts of the data, where the data need not be there; None: the data are looked at.
    """

    trial: dict[str, object]
    workers: int
    threads: int
    stored: Stored | None = None

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> Self:
        """The request of which `values` are the plain values, as JSON has them."""
        stored = values.get("stored")
        return cls(**{**values, "stored": stored and Stored(**{**stored, "shape": tuple(stored["shape"])})})


class AloneOf(Group):
    """The first worker of several that are not there. What they would send is like what it sends itself."""

    def sum(self, tensor: Tensor) -> Tensor:
        return tensor

    def max(self, tensor: Tensor) -> Tensor:
        return tensor

    def join(self, rows: Tensor, counts: list[int]) -> Tensor:
        return torch.cat([rows[:count] for count in counts])

    def gather(self, rows: Tensor, counts: list[int]) -> Tensor:
        return self.join(rows, counts)


def measure(request: Request) -> Cost:
    """Makes some steps of a trial, as `fit` would, on images of the data's shape.

    Raises:
        UserError: the data are missing or at fault.
    """
    config = c.parse(request.trial)
    if request.stored is not None:  # its files need not be there
        config = config.model_copy(update={"init": c.Init()})
    stored = request.stored or looked_at(config)
    count, shape, classes = stored.images, stored.shape, stored.classes
    config = resolved(config, classes)
    device = default_device()
    torch.set_num_threads(request.threads)
    make_deterministic(device, config.train.precision)
    images = _made_up(count, shape, classes)
    initial = initial_network.read(config.init)
    learner = Learner(config, shape[-1], count, AloneOf(0, request.workers, device), classes, initial)
    labelled = images.part(torch.arange(min(count, MADE_UP))) if config.method.LABELLED_VIEWS else None
    feed = Feed(config, images, labelled, learner.passes(), device, learner.dtype)
    order, seconds, end = images.order(config.seed, 0, "order"), [], time.monotonic() + SECONDS
    for step in range(min(MOST_STEPS, learner.run.per_epoch)):
        begun = time.monotonic()
        learner.step(feed.batches(order, step, 0)).item()  # waits for a GPU
        seconds.append(time.monotonic() - begun)
        if time.monotonic() > end:
            break
    tensors, _ = learner.state_dict()
    return Cost(
        seconds=sorted(seconds[1:] or seconds)[len(seconds[1:] or seconds) // 2],
        memory=peak_memory(),
        gpu_memory=torch.cuda.max_memory_reserved() if device.type == "cuda" else None,
        checkpoint=sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()),
        images=0 if config.data.streamed else count * shape[0] * shape[1] * shape[2],
        shards=len(learner.shards.mine),
    )


def _made_up(count: int, shape: tuple[int, int, int], classes: int) -> Images:
    """As many images as the trial trains on, of which only some differ."""
    different = min(count, MADE_UP)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (different, *shape), generator=generator, dtype=torch.uint8)
    rows = torch.arange(count)
    return Images(pixels, rows, rows % classes, at=rows % different)


def peak_memory() -> int:
    """The most bytes of main memory that this process ever had."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def main() -> int:
    """Answers a request; exit status 2 where the user can mend what is wrong."""
    try:
        print(json.dumps(dataclasses.asdict(measure(Request.from_plain(json.load(sys.stdin))))))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
