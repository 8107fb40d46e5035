"""Time of an optimiser step of each kind of teacher against the plain one, side by side: `python -m benchmarks.step`.

All variants take turns in one process, so that a drift of the machine's speed meets all of them; printed are medians, and the median of the
ratios round by round.
"""

import argparse
import platform
import statistics
import time

import torch

from trainables import config as c
from trainables import data, keyed
from trainables.group import Group, default_device
from trainables.learner import Learner
from trainables.train import batches

BASE = {
    "data": {"name": "digits"},
    "encoder": {"width": 16, "projector": {"hidden": 256, "out": 64}},
    "method": {"predictor_hidden": 256},
    "train": {"batch_size": 64, "shard_size": 32},
}
VARIANTS: dict[str, dict[str, object]] = {
    "plain BN, TMA, whole (base)": {},
    "momentum BN": {"teacher.norm.kind": "momentum"},
    "EMAN": {"teacher.norm.kind": "eman"},
    "STS, layer": {"teacher.smoothing.kind": "sts"},
    "placement backbone": {"teacher.placement": "backbone"},
    "placement projector": {"teacher.placement": "projector"},
    "both shards in one pass (exact: false)": {"train.exact": False},
    "one shard of 64": {"train.shard_size": 64},
}


class Variant:
    """A Learner that makes its step again and again on the same images, whose views are made beforehand."""

    def __init__(self, changes: dict[str, object]):
        config = c.changed(BASE, changes)
        train = data.load(config.data, "train").to(default_device())
        self.learner = Learner(config, train.channels, len(train), Group(device=default_device()))
        order = keyed.permutation(len(train), config.seed, 0, "order")
        self.batches = list(batches(self.learner, train, order, 0, 0))

    def seconds(self) -> float:
        _wait()
        began = time.perf_counter()
        self.learner.step(self.batches)
        _wait()
        return time.perf_counter() - began


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    variants = {name: Variant(changes) for name, changes in VARIANTS.items()}
    for variant in variants.values():
        for _ in range(3):
            variant.seconds()
    times = [[variant.seconds() for variant in variants.values()] for _ in range(rounds)]
    where = f"{platform.machine()}, {default_device()}, torch {torch.__version__}"
    print(f"{where}, {rounds} rounds; ResNet-18, width 16, images of 8 x 8")
    print(f"{'variant':<42} {'ms a step':>9} {'ratio to base':>14}")
    for index, name in enumerate(variants):
        ratio = statistics.median(row[index] / row[0] for row in times)
        print(f"{name:<42} {1000 * statistics.median(row[index] for row in times):>9.1f} {ratio:>14.2f}")


if __name__ == "__main__":
    main()
