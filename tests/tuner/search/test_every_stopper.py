"""What every stopper has to keep: a new file in tuner/search/stoppers is found, and tested here, by its name."""

import math
import random
import subprocess
import sys
from typing import get_args

import numpy
import pytest

from tuner.plan import spec as specs
from tuner.plan import strategy
from tuner.search.stoppers import base

NAMES = get_args(strategy.StopperName)
EPOCHS = 9
Told = tuple[str, int, float]


def search(kind: str) -> specs.SearchSpec:
    stopping = {"kind": kind, "grace_epochs": 1, "reduction": 2}
    return specs.parse({"trial": {"train": {"epochs": EPOCHS}}, "stopping": stopping})


def epochs(seed: int, nan: float = 0.2) -> list[Told]:
    """Epochs of six trials, interleaved; some are missing, and some scores are NaN, infinite or equal."""
    rng = random.Random(seed)
    left = {f"{number:04d}": [e for e in range(1, EPOCHS + 1) if rng.random() < 0.9] for number in range(6)}
    told = []
    while any(left.values()):
        key = rng.choice([key for key, reported in left.items() if reported])
        odd = rng.choice([math.nan, math.inf, -math.inf, 0.5])
        told.append((key, left[key].pop(0), odd if rng.random() < nan else rng.random()))
    return told


def judged(stopper: base.Stopper, told: list[Told]) -> list[object]:
    """The verdicts and promotions that epochs give. A stopped trial has no more epochs; its last one ends a trial."""
    stopped, answers = set[str](), list[object]()
    for key, epoch, score in told:
        if key in stopped:
            continue
        if epoch == EPOCHS:
            base.conclude(stopper, key, epoch, score)
            continue
        verdict = base.judge(stopper, key, epoch, score)
        answers.append((key, epoch, verdict, tuple(base.promoted(stopper))))
        stopped |= {key} if verdict == "stop" else set()
    return answers


def test_the_stoppers_are_found() -> None:
    assert set(NAMES) >= {"asha", "none"}
    assert "base" not in NAMES


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("seed", range(20))
def test_the_same_epochs_get_the_same_verdicts(kind: str, seed: int) -> None:
    """A resume tells them again. `judge` refuses what is no verdict, whatever the scores are."""
    told = epochs(seed)
    random.seed(1)
    first = judged(base.make(search(kind)), told)
    random.seed(2)
    assert judged(base.make(search(kind)), told) == first


@pytest.mark.parametrize("kind", NAMES)
def test_two_stoppers_share_nothing(kind: str) -> None:
    told, alone = epochs(0), judged(base.make(search(kind)), epochs(0))
    disturbed = base.make(search(kind))
    judged(base.make(search(kind)), epochs(1))
    assert judged(disturbed, told) == alone


@pytest.mark.parametrize("kind", NAMES)
def test_no_number_is_drawn_from_a_global_stream(kind: str) -> None:
    before = random.getstate(), str(numpy.random.get_state())
    judged(base.make(search(kind)), epochs(3))
    assert (random.getstate(), str(numpy.random.get_state())) == before


@pytest.mark.parametrize("kind", NAMES)
def test_only_paused_trials_are_promoted(kind: str) -> None:
    stopper, paused = base.make(search(kind)), set[str]()
    for key, epoch, score in epochs(4, nan=0.0):
        if epoch == EPOCHS or key in paused:
            continue
        if base.judge(stopper, key, epoch, score) == "pause":
            paused.add(key)
        promoted = base.promoted(stopper)
        assert set(promoted) <= paused
        paused -= set(promoted)


@pytest.mark.parametrize("kind", NAMES)
def test_scores_that_are_all_nan(kind: str) -> None:
    judged(base.make(search(kind)), [(key, epoch, math.nan) for key, epoch, _ in epochs(5)])


def test_none_needs_torch_or_ray() -> None:
    load = "".join(f"importlib.import_module('{base.PACKAGE}.{name}')\n" for name in NAMES)
    program = f"import importlib, sys\nsys.modules['ray'] = sys.modules['torch'] = None\n{load}"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
