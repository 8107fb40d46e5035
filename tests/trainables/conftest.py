"""What the tests of `trainables` share: tiny configurations, and a cache of decoded images of their own."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from trainables import config as c
from trainables import data

TINY: dict[str, Any] = {
    "encoder.width": 4,
    "encoder.projector": {"hidden": 32, "out": 16},
    "method.predictor_hidden": 32,
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
        return c.changed({}, {**TINY, **(values or {})})

    return make


@pytest.fixture(scope="session")
def digits(tiny: Callable[..., c.TrialConfig]) -> data.Images:
    """The 64 training images of a tiny configuration."""
    return data.load(tiny().data, "train")


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)
