"""Random search: every parameter is drawn by itself."""

import optuna

from tuner.plan.strategy import Sampler


def make(options: Sampler, seed: int) -> optuna.samplers.BaseSampler:
    """A sampler of that seed."""
    return optuna.samplers.RandomSampler(seed)
