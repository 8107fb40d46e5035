"""Tree-structured Parzen estimator (Bergstra et al. 2011), multivariate and in groups, for conditional spaces."""

import warnings

import optuna

from tuner.plan.spec import Sampler


def make(options: Sampler, seed: int) -> optuna.samplers.BaseSampler:
    """A sampler of that seed. Trials that still run count as bad ones, so that those at once differ."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of `group`
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=options.startup_trials, multivariate=True, group=True, constant_liar=True
        )
