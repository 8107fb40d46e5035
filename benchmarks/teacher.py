"""What each kind of teacher costs: `python -m benchmarks.teacher` times BYOL steps side by side with the plain teacher.

All variants take turns in one process, so that a drift of the machine's speed meets all of them. The fastest of all
rounds counts, because whatever is slower is other work on the machine. If variants differ in their teacher alone, the
teacher's part of the step (update, forward, commit) is timed by itself and added to the fastest student's part: the
noise of the student would hide the differences between teachers. benchmarks/teacher.md has the tables of the last runs.
"""

import argparse
import platform
import time
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch

from trainables.config import trial as c
from trainables.data import augment, keyed
from trainables.data.feed import Batch
from trainables.data.pieces import Piece
from trainables.learning.learner import Learner
from trainables.networks.group import Group, default_device

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
        views = augment.views(images, samples, config.method.views, config.views, 0, 0)
        size = config.train.shard_size
        self.batches = [
            Batch(
                {Piece("images", v): view[size * shards.start : size * shards.stop] for v, view in enumerate(views)}, {}
            )
            for shards in self.learner.passes()
        ]

    @cached_property
    @torch.no_grad()
    def tapped(self) -> torch.Tensor:
        """What the student hands to the teacher, in a step that is made in one pass."""
        return self.learner.student(
            torch.cat([*self.batches[0].pictures.values()]), self.learner.shards.layout()
        ).tapped

    def step(self) -> None:
        self.learner.step(self.batches)

    def teacher(self) -> None:
        """Its part of such a step."""
        teacher, step, run = self.learner.teacher, self.learner.step_index, self.learner.run
        teacher.update(step, run)
        teacher.begin(step, run)
        self.learner.target(self.tapped, self.learner.shards.mine, 2)
        teacher.commit(self.learner.group)


def seconds(work: Callable[[], None]) -> float:
    """Wall-clock time of some work, on a GPU until it is done."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    wait()
    began = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - began


def fastest(works: list[Callable[[], None]], rounds: int) -> list[float]:
    """Of each work, which take turns; a first round is not counted."""
    times = [[seconds(work) for work in works] for _ in range(rounds + 1)]
    return [min(column) for column in zip(*times[1:], strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.teacher", description=__doc__)
    parser.add_argument("--encoder", choices=list(ENCODERS), default="resnet18")
    parser.add_argument("--group", choices=list(GROUPS), nargs="+", default=list(GROUPS))
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--turns", type=int, default=8, help="of the teachers alone, a round")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    side = ENCODERS[given.encoder][1]
    machine = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"{platform.machine()}, {given.threads} thread(s)"
    )
    print(
        f"{machine}, torch {torch.__version__}; {given.encoder}, {side} x {side}, BYOL, fp32, "
        f"fastest of {given.rounds} rounds\n"
    )
    print("| teacher | its ms | ms a step | ratio |\n|---|---|---|---|")
    for group in given.group:
        variants = {name: Variant(given.encoder, changes) for name, changes in GROUPS[group].items()}
        steps = fastest([variant.step for variant in variants.values()], given.rounds)
        teachers = [""] * len(steps)
        if group != "shards":
            own = fastest([variant.teacher for variant in variants.values()], given.turns * given.rounds)
            student = min(step - part for step, part in zip(steps, own, strict=True))
            steps, teachers = [student + part for part in own], [f"{1000 * part:.1f}" for part in own]
        for name, teacher, step in zip(variants, teachers, steps, strict=True):
            print(f"| {group}: {name} | {teacher} | {1000 * step:.1f} | {step / steps[0]:.3f} |", flush=True)


if __name__ == "__main__":
    main()
