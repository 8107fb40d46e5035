"""Ray Tune's side of a search: its searcher and its scheduler hand their questions on to the bridge."""

import uuid
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from trainables.config.errors import TrialFailure
from tuner.fleet.accounts import HEAD
from tuner.fleet.bridge import ACTOR_RESTARTS, Bridge
from tuner.fleet.conversation import SlotLost
from tuner.fleet.trial import SlotTrial
from tuner.runs.hints import failed_alike
from tuner.search import events


class CoreSearcher(Searcher):
    """Tune's searcher: hands its questions to the bridge."""

    def __init__(self, bridge: Bridge):
        objective = bridge.core.study.spec.objective
        super().__init__(metric=objective.metric, mode=objective.mode)
        self.bridge = bridge

    def suggest(self, trial_id: str) -> Any:
        order = self.bridge.next(trial_id)
        if isinstance(order, events.Finish):
            return Searcher.FINISHED
        return None if order is None else {"order": order}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self.bridge.end(trial_id, result or {}, error)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: what there is to know is in the journal."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: a resume makes a new searcher over the journal."""

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its searcher beside its own state, which a resume does not read; live handles stay out of it."""
        return {}


class CoreScheduler(FIFOScheduler):
    """Tune's scheduler: the core judges, trials start in the order in which they were asked."""

    def __init__(self, bridge: Bridge):
        super().__init__()
        self.bridge = bridge

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        return self.bridge.hear(trial.trial_id, result.get("report"))

    def __getstate__(self) -> dict[str, Any]:
        """As the searcher's."""
        return {}


class Forgetting(tune.Callback):
    """Has Tune forget what ended trials have reported: it keeps its trials to the end, and the journal has it all."""

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        told = trial.run_metadata
        told.last_result = {"training_iteration": told.last_result.get("training_iteration", 0)}
        told.metric_analysis, told.metric_n_steps = {}, {}


def tune_with(bridge: Bridge) -> None:
    """Runs Tune until the core finishes."""
    search = bridge.core
    tuner = tune.Tuner(
        tune.with_resources(SlotTrial, HEAD),
        tune_config=tune.TuneConfig(
            num_samples=-1, search_alg=CoreSearcher(bridge), scheduler=CoreScheduler(bridge), reuse_actors=True
        ),
        run_config=tune.RunConfig(
            name=f"tune-{uuid.uuid4().hex[:8]}",
            storage_path=str(bridge.run.ray_folder),
            failure_config=tune.FailureConfig(max_failures=ACTOR_RESTARTS),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
            callbacks=[Forgetting()],
        ),
    )
    tuner.fit()
    if bridge.failure:  # `next` was not asked any more
        raise bridge.failure
    if bridge.baseline is not None:
        raise bridge.baseline.failure or SlotLost(bridge.broken_off)
    for listener in bridge.listeners:
        listener.search_ended()
    if search.fault:
        raise search.fault
    if search.alike:
        last = search.study.trial(search.alike[-1]).user_attrs["error"]
        raise TrialFailure(failed_alike(bridge.run, search.alike, last))
    if search.unfinished:
        keys = ", ".join(str(int(key)) for key in search.unfinished)
        raise RuntimeError(f"trials {keys} cannot be run: {bridge.broken_off}")
