"""What the tests of `trainables` share: tiny configurations, and a cache of decoded images of their own."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from tests.trainables.pictures import photographs
from trainables.config import trial as c
from trainables.data import images as data
from trainables.learning.learner import Learner
from trainables.networks import group
from trainables.running.resolve import resolved

TINY: dict[str, Any] = {
    "encoder.name": "resnet10",
    "encoder.width": 4,
    "encoder.projector": {"hidden": 32, "out": 16},
    "data.train_images": 64,
    "data.validation_images": 32,
    "train.epochs": 2,
    "train.batch_size": 16,
    "train.shard_size": 8,
    "teacher.momentum.base": 0.9,
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of decoded images, a fresh one for each test."""
    monkeypatch.setenv("TEACHER_TUNER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny() -> Callable[..., c.TrialConfig]:
    """Makes a configuration that trains in a moment: `tiny({"train.epochs": 3})`."""

    def make(values: dict[str, Any] | None = None) -> c.TrialConfig:
        own = {} if "method.name" in (values or {}) else {"method.predictor_hidden": 32}
        return c.changed({}, {**TINY, **own, **(values or {})})

    return make


@pytest.fixture(scope="session")
def digits(tiny: Callable[..., c.TrialConfig]) -> data.Images:
    """The 64 training images of a tiny configuration."""
    return data.load(tiny().data, "train")


@pytest.fixture(scope="session")
def natural() -> dict[str, Tensor]:
    """Photographs for each table of corruption levels."""
    return {"cifar": photographs(32), "imagenet": photographs(64)}


@pytest.fixture(scope="session")
def learner_of() -> Callable[[c.TrialConfig], Learner]:
    """Makes a configuration's Learner for the digits, alone in its group."""
    return lambda config: Learner(resolved(config, 10), 1, 64, group.Group(), 10)


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


class Threads:
    """Stands for torch.distributed in `trainables.networks.group`: workers are threads that meet in collectives."""

    ReduceOp = dist.ReduceOp

    def __init__(self, size: int):
        self.local, self.barrier = threading.local(), threading.Barrier(size, timeout=60)
        self.given: list[Any] = [None] * size

    def run(self, rank: int, act: Callable[[], Any]) -> Any:
        torch.set_num_threads(1)
        self.local.rank = rank
        try:
            return act()
        except BaseException:
            self.barrier.abort()
            raise

    def exchange(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        self.barrier.wait()  # until all have taken what was there before
        self.given[self.local.rank] = tensor.clone()
        self.barrier.wait()
        return list(self.given)

    def all_reduce(self, tensor: torch.Tensor, op: Any = dist.ReduceOp.SUM) -> None:
        every = torch.stack(self.exchange(tensor))
        tensor.copy_(every.amax(0) if op == dist.ReduceOp.MAX else every.sum(0))

    def all_gather(self, places: list[torch.Tensor], tensor: torch.Tensor) -> None:
        for place, one in zip(places, self.exchange(tensor), strict=True):
            place.copy_(one)


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[Callable[[], Any]]], list[Any]]:
    """Runs the acts of all ranks of a group at once: `together([of_rank_0, of_rank_1])` returns their results."""

    def run(acts: Sequence[Callable[[], Any]]) -> list[Any]:
        threads = Threads(len(acts))
        monkeypatch.setattr(group, "dist", threads)
        with ThreadPoolExecutor(len(acts)) as pool:
            return list(pool.map(threads.run, range(len(acts)), acts))

    return run
