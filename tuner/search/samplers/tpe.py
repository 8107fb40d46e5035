"""Tree-structured Parzen estimator (Bergstra et al. 2011), multivariate and in groups, for conditional spaces."""

import warnings
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers._tpe.sampler import _split_trials, default_gamma
from optuna.search_space.group_decomposed import _SearchSpaceGroup
from optuna.trial import FrozenTrial, TrialState

from tuner.plan.strategy import Sampler

Split = tuple[list[FrozenTrial], list[FrozenTrial]]


def make(options: Sampler, seed: int) -> optuna.samplers.BaseSampler:
    """Returns a sampler with this seed. Running trials count as bad ones, so that proposals made meanwhile differ."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of `group`
        return QuickTPESampler(
            seed=seed, n_startup_trials=options.startup_trials, multivariate=True, group=True, constant_liar=True
        )


class QuickTPESampler(optuna.samplers.TPESampler):
    """Optuna's sampler for one trial, with the same draws in half of the time.

    Optuna divides the trials into good and bad ones again for each group of parameters, and adds the parameters of each
    trial to the groups although most trials have the same ones. Both are done once here. Optuna has no public place for
    that; a test compares the draws with those of its own class.
    """

    def __init__(self, **options: Any):
        super().__init__(**options)
        assert self._group_decomposed_search_space is not None
        self._group_decomposed_search_space._search_space = _Groups()
        self._split: tuple[int, Split] | None = None  # number of the trial that is drawn, good trials and bad ones

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        self._split = None  # trials may have ended since the last trial
        return super().sample_relative(study, trial, search_space)

    def _sample(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        good, bad = self._divided(study, trial)
        estimators = [
            self._build_parzen_estimator(study, search_space, trials, handle_below=trials is good)
            for trials in (good, bad)
        ]
        drawn = estimators[0].sample(self._rng.rng, self._n_ei_candidates)
        best = self._compare(drawn, self._compute_acquisition_func(drawn, *estimators))
        return {name: kind.to_external_repr(best[name]) for name, kind in search_space.items()}

    def _divided(self, study: optuna.Study, trial: FrozenTrial) -> Split:
        """Good and bad trials: all that have ended with a score, and those that run but for the one that is drawn."""
        if self._split is None or self._split[0] != trial.number:
            states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
            trials = [
                other for other in study.get_trials(deepcopy=False, states=states) if other.number != trial.number
            ]
            ended = sum(other.state != TrialState.RUNNING for other in trials)
            self._split = trial.number, _split_trials(study, trials, default_gamma(ended))
        return self._split[1]


class _Groups(_SearchSpaceGroup):
    """Groups of parameters that always occur together. The same names a second time change nothing."""

    def __init__(self) -> None:
        super().__init__()
        self._added: set[frozenset[str]] = set()

    def add_distributions(self, distributions: dict[str, BaseDistribution]) -> None:
        names = frozenset(distributions)
        if names not in self._added:
            self._added.add(names)
            super().add_distributions(distributions)
