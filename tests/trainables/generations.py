"""Trials that are left and go on with other workers: real processes, joined by gloo, a group for each generation."""

import datetime
import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from trainables.config import trial as c
from trainables.learning.learner import Learner
from trainables.networks.group import Group
from trainables.running import fit as train
from trainables.running.segment import Segment


@dataclass(frozen=True)
class Trial:
    """A trial and its generations.

    Attributes:
        folder: of its checkpoints.
        config: of the trial.
        generations: of each the number of workers, and in which step (from 0) rank 0 asks to leave; None: in none.
    """

    folder: Path
    config: dict[str, Any]
    generations: Sequence[tuple[int, int | None]]

    def left_at(self, generation: int) -> list[list[Any]]:
        """What each rank saw at the end of a generation: whether it left, and after how many steps."""
        width, _ = self.generations[generation]
        return [json.loads(_seen(self.folder, generation, rank).read_text()) for rank in range(width)]


def train_all(trials: Sequence[Trial]) -> None:
    """Trains each generation of each trial, one after another, on as many processes as the widest needs."""
    processes = max(width for trial in trials for width, _ in trial.generations)
    mp.spawn(_worker, (trials,), nprocs=processes)


def _worker(rank: int, trials: Sequence[Trial]) -> None:
    torch.set_num_threads(1)
    for trial in trials:
        for generation, (width, leave_at) in enumerate(trial.generations):
            if rank < width:
                _train(rank, width, trial, generation, leave_at)


def _train(rank: int, width: int, trial: Trial, generation: int, leave_at: int | None) -> None:
    if width > 1:
        store = f"file://{trial.folder.absolute()}.store{generation}"
        timeout = datetime.timedelta(seconds=120)
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=width, timeout=timeout)
    segment, steps = Segment(f"generation {generation}"), list[int]()
    make = Learner.step

    @functools.wraps(make)
    def stepping(learner: Learner, batches: Any) -> torch.Tensor:
        if rank == 0 and leave_at is not None and learner.step_index >= leave_at:
            segment.leave()
        result = make(learner, batches)
        steps.append(learner.step_index)
        return result

    Learner.step = stepping  # type: ignore[method-assign]
    try:
        train.fit(c.parse(trial.config), trial.folder, lambda metrics: "on", Group(rank, width), segment)
    finally:
        Learner.step = make  # type: ignore[method-assign]
    _seen(trial.folder, generation, rank).write_text(json.dumps([segment.left, steps[-1] if steps else None]))
    if width > 1:
        dist.barrier()
        dist.destroy_process_group()


def _seen(folder: Path, generation: int, rank: int) -> Path:
    return folder.with_name(f"{folder.name}.seen-{generation}-{rank}")
