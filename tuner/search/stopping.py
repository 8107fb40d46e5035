"""Early stopping on our own count of epochs: Ray's ASHA, rebuilt from the journal after a resume."""

from types import SimpleNamespace
from typing import Any

from optuna.trial import FrozenTrial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from tuner.plan.spec import SearchSpec
from tuner.search.study import key_of


def scheduler(spec: SearchSpec, ended: list[FrozenTrial]) -> TrialScheduler:
    """The scheduler of a search, with the rungs that trials of earlier sessions have filled.

    Tune does not save a scheduler's state. The curves in the journal are told to it again, in the order of the trials; trials that go on
    tell theirs themselves, when their history is replayed.
    """
    if spec.stopping.kind == "none":
        return FIFOScheduler()
    asha = AsyncHyperBandScheduler(
        time_attr="epoch",
        metric=spec.objective.metric,
        mode=spec.objective.mode,
        max_t=spec.trial.train.epochs,
        grace_period=min(spec.stopping.grace_epochs, spec.trial.train.epochs),
        reduction_factor=spec.stopping.reduction,
    )
    no_controller: Any = None
    for trial in ended:
        stand_in: Any = SimpleNamespace(trial_id=key_of(trial))  # all that ASHA looks at
        asha.on_trial_add(no_controller, stand_in)
        for epoch, value in sorted(trial.intermediate_values.items()):
            asha.on_trial_result(no_controller, stand_in, {"epoch": epoch, spec.objective.metric: value})
    return asha
