"""Random search: every parameter is drawn by itself."""

import optuna

from tuner.plan.strategy import Sampler


def make(options: Sampler, seed: int) -> optuna.samplers.BaseSampler:
    """Returns a sampler with this seed."""
    return optuna.samplers.RandomSampler(seed)
