"""What a sampler file is: a function `make` that gives a fresh Optuna sampler for a trial.

A fresh one for each trial leaves no stream of random numbers to be restored: a proposal is a function of the seed, of
the trial's number and of what was told.
"""

import importlib

import optuna

from tuner.plan.spec import SearchSpec


def make(spec: SearchSpec, number: int) -> optuna.samplers.BaseSampler:
    """The sampler of a search for its trial `number`."""
    module = importlib.import_module(f"tuner.search.samplers.{spec.sampler.kind}")
    return module.make(spec.sampler, (spec.seed * 1_000_003 + number) % 2**32)
