"""A trial is left in the middle of an epoch, and goes on with other workers: it ends as one that was left alone."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.timeless import timeless_history
from tests.trainables.generations import Trial, train_all
from tests.trainables.running.test_fit_resume import assert_same_end, go_on
from trainables.config import trial as c
from trainables.learning.learner import Learner
from trainables.running import checkpoint
from trainables.running import fit as train
from trainables.running.segment import Segment

FOUR_SHARDS = {
    "data.train_images": 160,  # 5 steps an epoch
    "train.batch_size": 32,
    "train.shard_size": 8,
    "optim.lr": 0.05,
    "teacher.norm.kind": "momentum",
    "evaluation.network": "teacher",
}
BY_TIME = {"train.checkpoint_minutes": 1e-4}  # 6 ms: whenever the last one is written
WIDTHS = [(1, 0), (2, 4), (4, 5), (1, None)]  # and the step in which each is asked to leave


def alone(config: c.TrialConfig, folder: Path) -> list[train.Metrics]:
    """The trial on one worker that is left alone."""
    return train.fit(config, folder, go_on)


def states(folder: Path) -> tuple[dict[str, torch.Tensor], list[train.Metrics]]:
    found = checkpoint.newest(folder)
    assert found is not None
    return found.tensors, timeless_history(found.values["history"])


def assert_same(one: Path, other: Path) -> None:
    """Same tensors and metrics, to the last bit. The plain state differs: it has a sum of losses for each worker."""
    (a, metrics), (b, others) = states(one), states(other)
    assert a.keys() == b.keys() and [name for name in a if not torch.equal(a[name], b[name])] == []
    assert metrics == others


def test_a_trial_goes_on_with_another_number_of_workers_from_the_middle_of_an_epoch(tiny, tmp_path: Path):
    """1, 2 and 1 workers, with checkpoints by time in between.

    A wish during a step is carried by the next one and heard in the one after that.
    """
    config = tiny({**FOUR_SHARDS, **BY_TIME})
    trial = Trial(tmp_path / "left", config.plain(), [(1, 1), (2, 6), (1, None)])
    train_all([trial])
    alone(config, tmp_path / "alone")
    assert_same(tmp_path / "alone", tmp_path / "left")
    assert [trial.left_at(generation) for generation in range(3)] == [[[True, 4]], [[True, 9]] * 2, [[False, 10]]]


GRID: dict[str, dict[str, Any]] = {
    "momentum": {},
    "momentum, timed": BY_TIME,
    "batch": {"teacher.norm.kind": "batch", "evaluation.network": "student"},
    "eman, sts": {"teacher.norm.kind": "eman", "teacher.smoothing": {"kind": "sts", "granularity": "channel"}},
    "moco": {"method.name": "moco", "method.queue": 64},
    "dino": {"method.name": "dino"},
    "lars": {"optim.name": "lars", **BY_TIME},
    "mean teacher": {"method.name": "mean_teacher", "method.images_per_label": 2},
    "every second epoch": {"evaluation.every_epochs": 2},
}


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_every_kind_of_trial_on_1_2_and_4_workers(tiny, tmp_path: Path):
    configs = {name: tiny({**FOUR_SHARDS, **values}) for name, values in GRID.items()}
    trials = [Trial(tmp_path / name, config.plain(), WIDTHS) for name, config in configs.items()]
    train_all(trials)
    for trial, (name, config) in zip(trials, configs.items(), strict=True):
        alone(config, tmp_path / "alone" / name)
        assert_same(tmp_path / "alone" / name, trial.folder)
        seen = [trial.left_at(generation) for generation in range(4)]
        if config.evaluation.every_epochs == 1:  # the second one is left after the evaluation at the end of epoch 1
            assert seen == [[[True, 3]], [[True, 5]] * 2, [[True, 8]] * 4, [[False, 10]]], name
        else:
            assert seen == [[[True, 3]], [[True, 7]] * 2, [[False, 10]] * 4, [[False, None]]], name


JOINT: dict[str, dict[str, Any]] = {
    "sync": {"encoder.norm": "sync", "teacher.norm.kind": "sync"},
    "masks per worker": {
        "teacher.smoothing": {"kind": "sts", "p": 0.5, "masks": "per_worker"},
        "evaluation.network": "student",
    },
}
MORE_JOINT: dict[str, dict[str, Any]] = {
    "shuffle": {"teacher.norm.kind": "shuffle"},
    "simclr": {"method.name": "simclr", "teacher.norm.kind": "batch", "evaluation.network": "student"},
    "not exact": {"train.exact": False},
}


def train_on_two(configs: dict[str, c.TrialConfig], folder: Path) -> None:
    """Fails where a trial on two workers that is left twice ends otherwise than one that is left alone."""
    whole = [Trial(folder / f"{name} whole", config.plain(), [(2, None)]) for name, config in configs.items()]
    generations = [(2, 0), (2, 5), (2, None)]
    left = [Trial(folder / f"{name} left", config.plain(), generations) for name, config in configs.items()]
    train_all([*whole, *left])
    for one, other in zip(whole, left, strict=True):
        assert_same_end(one.folder, other.folder)
        seen = [other.left_at(generation) for generation in range(3)]
        assert seen == [[[True, 3]] * 2, [[True, 8]] * 2, [[False, 10]] * 2]


def test_trials_that_keep_their_width_go_on_as_well(tiny, tmp_path: Path):
    """A norm over all shards, and teachers that differ by worker."""
    train_on_two({name: tiny({**FOUR_SHARDS, **values}) for name, values in JOINT.items()}, tmp_path)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_more_trials_that_keep_their_width(tiny, tmp_path: Path):
    """Shards that depend on each other, and sums that are rounded."""
    train_on_two({name: tiny({**FOUR_SHARDS, **values}) for name, values in MORE_JOINT.items()}, tmp_path)


def test_a_wish_of_another_thread_is_heard_within_two_steps(tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config, segment = tiny({**FOUR_SHARDS, "train.epochs": 50}), Segment()
    asked_at: list[int] = []
    make = Learner.step

    def stepping(learner: Learner, batches: Any) -> torch.Tensor:
        if learner.step_index == 1:
            thread = threading.Thread(target=segment.leave)
            thread.start()
            thread.join()
            asked_at.append(learner.step_index)
        return make(learner, batches)

    monkeypatch.setattr(Learner, "step", stepping)
    assert train.fit(config, tmp_path, go_on, segment=segment) == []
    found = checkpoint.newest(tmp_path)
    assert segment.left and found is not None and found.values["learner"]["step"] == 4
