"""What every sampler has to keep: a new file in tuner/search/samplers is found, and tested here, by its name."""

import random
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy
import optuna
import pytest

from tuner.plan import space as spaces
from tuner.plan import spec as specs
from tuner.plan import strategy
from tuner.search.samplers import base
from tuner.search.study import Study

NAMES = get_args(strategy.SamplerName)
TEACHER = spaces.load("teacher")
TRIALS = 14
DRAWN = len(TEACHER.known_good)  # number of the first trial that a sampler draws


def search(kind: str, seed: int = 0) -> specs.SearchSpec:
    sampler = {"kind": kind, "startup_trials": 3}
    return specs.parse({"trials": TRIALS, "seed": seed, "sampler": sampler, "trial": {"train": {"epochs": 3}}})


def proposed(spec: specs.SearchSpec, journal: Path | None = None) -> list[dict[str, Any]]:
    """The values of a search's trials; with a journal, the study is opened again for each.

    Two trials run at a time; some fail, some are stopped, and some have no score.
    """
    rng, running, values = random.Random(7), list[str](), list[dict[str, Any]]()
    study = Study(journal, spec, TEACHER)
    while (proposal := study.ask()) is not None:
        values.append(proposal.values)
        running.append(proposal.key)
        if len(running) > 2:
            score = rng.choice([rng.random(), 0.5, float("nan")])
            metrics = {"epoch": rng.randint(1, 3), "knn_top1": score}
            study.observe(running[0], metrics)
            study.tell(running.pop(0), metrics, "RuntimeError: x" if rng.random() < 0.2 else None, {})
        if journal is not None:
            study = Study(journal, spec, TEACHER)
    return values


def test_the_samplers_are_found() -> None:
    assert set(NAMES) >= {"random", "tpe"}
    assert "base" not in NAMES


@pytest.mark.parametrize("kind", NAMES)
def test_each_trial_gets_a_new_sampler(kind: str) -> None:
    made = [base.make(search(kind), 0) for _ in range(2)]
    assert all(isinstance(sampler, optuna.samplers.BaseSampler) for sampler in made)
    assert made[0] is not made[1]


@pytest.mark.parametrize("kind", NAMES)
def test_a_trial_is_proposed_the_same_after_the_same_trials(tmp_path: Path, kind: str) -> None:
    """In memory, and from a journal that is opened again for each trial, whatever was drawn elsewhere meanwhile."""
    random.seed(1)
    numpy.random.seed(1)
    first = proposed(search(kind))
    random.seed(2)
    numpy.random.seed(2)
    assert len(first) == TRIALS
    assert proposed(search(kind), tmp_path / "journal") == first


@pytest.mark.parametrize("kind", NAMES)
def test_a_trial_that_was_not_kept_is_proposed_the_same(kind: str) -> None:
    """A process that dies before its proposal is in the journal asks for the same number again."""
    study = Study(None, search(kind), TEACHER)
    for _ in range(DRAWN + 2):
        study.ask()
        study.tell(f"{len(study.trials()) - 1:04d}", {"epoch": 3, "knn_top1": 0.5}, None, {})
    number = len(study.trials())
    drawn = []
    for _ in range(2):
        with study._store.draft(base.make(study.spec, number)) as draft:
            drawn.append(TEACHER.propose(draft.trial, study.spec.trial)[0])
    assert drawn[0] == drawn[1]
    assert len(study.trials()) == number


@pytest.mark.parametrize("kind", NAMES)
def test_trials_and_seeds_differ(kind: str) -> None:
    """The seed reaches the sampler; known good points are the same for all seeds."""
    first, other = proposed(search(kind)), proposed(search(kind, seed=1))
    assert len({repr(values) for values in first[DRAWN:]}) == TRIALS - DRAWN
    assert all(one != two for one, two in zip(first[DRAWN:], other[DRAWN:], strict=True))


def test_none_needs_torch_or_ray() -> None:
    load = "".join(f"importlib.import_module('{base.PACKAGE}.{name}')\n" for name in NAMES)
    program = f"import importlib, sys\nsys.modules['ray'] = sys.modules['torch'] = None\n{load}"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
