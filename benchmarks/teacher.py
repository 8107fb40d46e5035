"""What each kind of teacher costs: time of a BYOL step against that of the plain one, side by side: `python -m benchmarks.teacher`.

All variants take turns in one process, so that a drift of the machine's speed meets all of them; printed is the fastest of the rounds, for
what is slower is other work on the machine. The tables of the last runs are in benchmarks/teacher.md.
"""

import argparse
import platform
import time
from typing import Any

import torch

from trainables import augment, keyed
from trainables import config as c
from trainables.group import Group, default_device
from trainables.learner import Learner

ENCODERS: dict[str, tuple[dict[str, Any], int]] = {
    "resnet18": ({"encoder": {"name": "resnet18"}}, 32),
    "resnet50": ({"encoder": {"name": "resnet50", "stem": "standard"}}, 224),
}
BASE: dict[str, Any] = {
    "encoder.projector": {"hidden": 4096, "out": 256},
    "train.batch_size": 32,
    "train.shard_size": 32,
    "train.exact": False,
}
FOUR = {"train.batch_size": 128}
NORMS = ("sync", "shuffle", "momentum", "eman")
GROUPS: dict[str, dict[str, dict[str, Any]]] = {  # of each the first is what the others are measured against
    "norm": {"batch": {}, **{norm: {"teacher.norm.kind": norm} for norm in NORMS}},
    "smoothing": {
        "TMA": {},
        **{
            f"{kind.upper()} {granularity}": {"teacher.smoothing": {"kind": kind, "granularity": granularity}}
            for kind in ("se", "sts")
            for granularity in ("layer", "channel", "neuron")
        },
    },
    "placement": {part: {"teacher.placement": part} for part in ("whole", "backbone", "projector")},
    "shards": {
        "1 of 128": {**FOUR, "train.shard_size": 128},
        "4 of 32": FOUR,
        "4 of 32, momentum": {**FOUR, "teacher.norm.kind": "momentum"},
        "4 of 32, one by one (train.exact)": {**FOUR, "train.exact": True},
    },
}


class Variant:
    """A Learner that makes its step again and again on the same views of random images."""

    def __init__(self, encoder: str, changes: dict[str, Any]):
        nested, side = ENCODERS[encoder]
        config, device = c.changed(nested, {**BASE, **changes}), default_device()
        self.learner = Learner(config, 3, 100 * config.train.batch_size, Group(device=device))
        samples = torch.arange(config.train.batch_size)
        images = keyed.uniform(samples, 3 * side * side, "benchmark").view(-1, 3, side, side).to(device)
        views = augment.views(images, samples, 2, config.views, 0, 0)
        size = config.train.shard_size
        self.batches = [views[:, size * shards.start : size * shards.stop] for shards in self.learner.passes()]

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
    parser = argparse.ArgumentParser(prog="python -m benchmarks.teacher", description=__doc__)
    parser.add_argument("--encoder", choices=list(ENCODERS), default="resnet18")
    parser.add_argument("--group", choices=list(GROUPS), nargs="+", default=list(GROUPS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    side = ENCODERS[given.encoder][1]
    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()}, {given.threads} thread(s)"
    print(f"{machine}, torch {torch.__version__}; {given.encoder}, {side} x {side}, BYOL, fp32, fastest of {given.rounds} rounds\n")
    print("| teacher | ms a step | ratio |\n|---|---|---|")
    for group in given.group:
        variants = {name: Variant(given.encoder, changes) for name, changes in GROUPS[group].items()}
        for variant in variants.values():
            variant.seconds()
        rounds = [[variant.seconds() for variant in variants.values()] for _ in range(given.rounds)]
        fastest = [min(times) for times in zip(*rounds, strict=True)]
        for name, seconds in zip(variants, fastest, strict=True):
            print(f"| {group}: {name} | {1000 * seconds:.1f} | {seconds / fastest[0]:.3f} |", flush=True)


if __name__ == "__main__":
    main()
