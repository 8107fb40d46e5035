"""What checkpoints by time cost the training: `python -m benchmarks.checkpoints`, side by side with other ways.

A Learner makes steps on random images, with the loop's own Saver, for some seconds in each way in turn: without
checkpoints by time; written by a thread from a copy, as `fit` does; and written on the training thread. Stalled is the
share of the wall time that the training thread spends in the Saver. Its CPU time is given as well, because other work
on the machine does not change that. benchmarks/checkpoints.md has the table of the last run.
"""

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch

from benchmarks.teacher import BASE
from trainables.config import trial as c
from trainables.data import augment, keyed
from trainables.data.feed import Batch
from trainables.data.pieces import Piece
from trainables.learning.learner import Learner
from trainables.networks.group import Group, default_device
from trainables.running import checkpoint
from trainables.running.saver import Saver
from trainables.running.segment import Segment

TRIALS: dict[str, tuple[dict[str, Any], int, int]] = {  # configuration, channels and side of its images
    "digits": (
        {
            "encoder": {"name": "resnet10", "width": 16, "projector": {"hidden": 128, "out": 64}},
            "train": {"batch_size": 64, "shard_size": 32},
        },
        1,
        8,
    ),
    "resnet18": ({"encoder": {"name": "resnet18"}, **BASE, "train.batch_size": 8, "train.shard_size": 8}, 3, 32),
}
WAYS = ("none", "by a thread", "on the training thread")
P, R = ParamSpec("P"), TypeVar("R")


@dataclass
class Times:
    """Of one way, over all rounds.

    Attributes:
        wall: seconds.
        steps: that were made.
        stalls: seconds that each checkpoint kept the training thread.
        busy: seconds of CPU that the training thread spent in that, for each checkpoint.
        asking: seconds in which the training thread looked whether a checkpoint is due.
        writes: seconds that each took to be hashed and written.
    """

    wall: float = 0.0
    steps: int = 0
    stalls: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    asking: float = 0.0
    writes: list[float] = field(default_factory=list)

    @property
    def stalled(self) -> float:
        """Share of the wall time."""
        return (sum(self.stalls) + self.asking) / self.wall


def learner_of(trial: str, minutes: float) -> tuple[Learner, list[Batch]]:
    """A Learner that is asked for checkpoints by time, and a batch of views of random images."""
    nested, channels, side = TRIALS[trial]
    config = c.changed({}, {**nested, "train.checkpoint_minutes": minutes})
    device = default_device()
    learner = Learner(config, channels, 10**6, Group(device=device))
    samples = torch.arange(config.train.batch_size)
    images = keyed.uniform(samples, channels * side * side, "benchmark").view(-1, channels, side, side).to(device)
    views = augment.views(images, samples, config.method.views, config.views, 0, 0)
    size = config.train.shard_size
    return learner, [
        Batch({Piece("images", v): view[size * part.start : size * part.stop] for v, view in enumerate(views)}, {})
        for part in learner.passes()
    ]


def timed(work: Callable[P, R], into: list[float]) -> Callable[P, R]:
    """The same work, which notes its seconds."""

    def run(*arguments: P.args, **named: P.kwargs) -> R:
        began = time.perf_counter()
        result = work(*arguments, **named)
        into.append(time.perf_counter() - began)
        return result

    return run


def take_turn(way: str, learner: Learner, batches: list[Batch], seconds: float, folder: Path, times: Times) -> None:
    """Steps for so many seconds, as `fit` makes them."""
    learner.requests.asked = frozenset()
    learner.requests.forget("checkpoint")  # what the turn before asked last
    with Saver(learner, folder, Segment()) as saver:
        began = time.perf_counter()
        while time.perf_counter() < began + seconds:
            at = time.perf_counter()
            if way != "none":
                saver.ask()
            times.asking += time.perf_counter() - at
            learner.step(batches)
            times.steps += 1
            if saver.wanted:
                at, busy = time.perf_counter(), time.thread_time()
                saver.between_steps([])
                if way == "on the training thread":
                    saver.wait()
                times.stalls.append(time.perf_counter() - at)
                times.busy.append(time.thread_time() - busy)
        times.wall += time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.checkpoints", description=__doc__)
    parser.add_argument("--trial", choices=list(TRIALS), nargs="+", default=list(TRIALS))
    parser.add_argument("--minutes", type=float, default=0.05, help="between checkpoints")
    parser.add_argument("--seconds", type=float, default=20, help="of a turn")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()}, one thread"
    print(f"{machine}, torch {torch.__version__}; every {60 * given.minutes:g} s, {given.rounds} rounds\n")
    heads = ("trial", "checkpoints", "MB", "ms a step", "ratio", "stall in ms: median, max (number)", "CPU ms of it")
    print("|", *(f"{head} |" for head in (*heads, "write in s", "stalled", "stalled at one a minute")))
    print("|---|---|---|---|---|---|---|---|---|---|")
    write = checkpoint.write
    for trial in given.trial:
        learner, batches = learner_of(trial, given.minutes)
        learner.step(batches)
        times = {way: Times() for way in WAYS}
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(given.rounds):
                for way in WAYS:
                    checkpoint.write = timed(write, times[way].writes)  # type: ignore[assignment]
                    take_turn(way, learner, batches, given.seconds, Path(folder), times[way])
            size = max(file.stat().st_size for file in Path(folder).glob(checkpoint.PATTERN))
        first = times["none"].wall / times["none"].steps
        for way, of in times.items():
            step = of.wall / of.steps
            row = f"| {trial} | {way} | {size / 1e6:.1f} | {1000 * step:.1f} | {step / first:.3f} |"
            if of.stalls:
                median, most = 1000 * statistics.median(of.stalls), 1000 * max(of.stalls)
                row += f" {median:.1f}, {most:.1f} ({len(of.stalls)}) | {1000 * statistics.median(of.busy):.1f} |"
                row += f" {statistics.median(of.writes):.3f} |"
                row += f" {100 * of.stalled:.2f} % | {100 * statistics.mean(of.stalls) / 60:.3f} % |"
            else:
                row += " | | | 0 | 0 |"
            print(row, flush=True)


if __name__ == "__main__":
    main()
