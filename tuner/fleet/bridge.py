"""Builds, runs and resumes the Tune run of a search. The journal is the truth: a resume starts Tune anew over it."""

import functools
import logging
import sys
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from optuna.trial import TrialState
from ray import tune
from ray.tune.search import Searcher
from rich.console import Console

from trainables.config.errors import TrialFailure, UserError
from tuner.fleet.cluster import cluster
from tuner.fleet.single import measure_baseline, tell_wait
from tuner.fleet.slots import Slots
from tuner.fleet.trial import SlotTrial
from tuner.fleet.watch import Watch
from tuner.report.progress import Progress
from tuner.report.tensorboard import TensorBoard
from tuner.report.view import failed_alike, resume_hint
from tuner.runs.run import Run
from tuner.search import stopping
from tuner.search.allocation import concurrent_trials
from tuner.search.study import Proposal, Study

log = logging.getLogger(__name__)
ACTOR_RESTARTS = 3  # of the light trainable; its workers are not touched by its death
ACTOR_RETRIES = 2  # how often a trial whose actor has had these restarts is begun once more


class StudySearcher(Searcher):
    """The bridge between Tune and the study. First the trials that an earlier session left, then new ones; no more at once than slots.

    Args:
        study: asks and tells.
        run: for the trials' folders.
        groups: the slots.
        room: how many trials may run at once.
    """

    def __init__(self, study: Study, run: Run, groups: Slots, room: int):
        super().__init__(metric=study.spec.objective.metric, mode=study.spec.objective.mode)
        self.study, self.run, self.groups, self.room = study, run, groups, room
        self.left_over = deque(study.interrupted())
        self.running: dict[str, Proposal] = {}  # by Ray's id
        self.first_steps: dict[str, float] = {}
        self.begun: set[str] = set()
        self.session = uuid.uuid4().hex
        self.actors_lost: Counter[str] = Counter()  # by trial: how often Tune gave up its actor
        self.broken_off = ""  # why nothing more can be run
        self.fault: UserError | TrialFailure | None = None  # for which nothing more is proposed
        self.say: Callable[[str], None] = lambda text: None  # to the terminal

    def suggest(self, trial_id: str) -> Any:
        if self.broken_off or self.fault:
            return Searcher.FINISHED
        # as many trials as there are workers for; one always, with which Tune waits where there are none
        if len(self.running) >= max(1, min(self.room, len(self.groups.state().up))):
            return None
        try:
            proposal = self.left_over.popleft() if self.left_over else self.study.ask()
        except UserError as fault:
            self._propose_no_more(fault)
            return Searcher.FINISHED
        if proposal is None:
            return Searcher.FINISHED
        self.running[trial_id] = proposal
        if self.groups.state().up:
            self._begin(proposal.key)
        folder = str(self.run.trial_folder(proposal.key))
        return {
            "board": self.groups.name,
            "claim": trial_id,
            "key": proposal.key,
            "point": proposal.point,
            "trial": proposal.config.plain(),
            "folder": folder,
            "epochs": proposal.config.train.epochs,
            "metric": self.study.spec.objective.metric,
        }

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self._hear(self.running[trial_id].key, metrics_of(result))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        proposal = self.running.pop(trial_id, None)
        if proposal is None:
            return
        self.groups.release(trial_id)
        if lost := (result or {}).get("lost"):  # no slot is left
            self.broken_off = lost
            return
        if error:  # no fault of the trial either: its actor trains nothing
            self.actors_lost[proposal.key] += 1
            log.warning("trial %s: its Tune actor died %d times", proposal.key, ACTOR_RESTARTS + 1)
            self.left_over.appendleft(proposal)
            if self.actors_lost[proposal.key] > ACTOR_RETRIES:
                self.broken_off = (
                    f"the Tune actors of trial {proposal.key} died again and again; has the head node enough memory?"
                )
            return
        metrics = metrics_of(result or {})
        self._hear(proposal.key, metrics)
        failure = (result or {}).get("error")
        details = {
            "session": self.session,
            "slot": metrics.get("slot"),
            "first_step_at": self.first_steps.pop(proposal.key, None),
            "last_metric_at": metrics.get("time/measured_at"),
        }
        self.study.tell(proposal.key, metrics, failure, details)
        if failure is not None and (trials := self.study.failed_alike()):
            self._propose_no_more(TrialFailure(failed_alike(self.run, trials)))

    def _propose_no_more(self, fault: UserError | TrialFailure) -> None:
        """Ends the search by a fault of what its trials share, when those that run have come to their end."""
        if self.fault is None:
            self.fault = fault
            self.say("trials share a fault: no more trials are proposed, and those that run go on to their end")

    def _begin(self, key: str) -> None:
        """Notes that workers have a trial; one that waits for them is queued."""
        if key not in self.begun:
            self.begun.add(key)
            self.study.begin(key, time.time())

    def _hear(self, key: str, metrics: dict[str, Any]) -> None:
        if metrics:
            self._begin(key)
            self.first_steps.setdefault(key, metrics["time/first_step_at"])
            self.study.observe(key, metrics)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: what there is to know is in the journal."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: a resume makes a new searcher over the journal."""

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its searcher beside its own state, which a resume does not read; live handles stay out of it."""
        return {}


def metrics_of(result: dict[str, Any]) -> dict[str, Any]:
    """The trial's own metrics in a result of Tune, which flattens some of its results."""
    if "metrics" in result:
        return dict(result["metrics"])
    return {key.removeprefix("metrics/"): value for key, value in result.items() if key.startswith("metrics/")}


def run_search(run: Run, study: Study) -> None:
    """Runs what is left of a search.

    Raises:
        UserError: the cluster has no room for a trial.
    """
    spec = study.spec
    ended = [trial for trial in study.trials() if trial.state.is_finished()]
    left = spec.trials - len(ended)
    if left <= 0:
        return
    study.pass_over_failures()
    console = Console(file=sys.stdout)
    console.print(_first_words(spec.address), highlight=False, markup=False)
    with cluster(spec.address, run) as nodes:
        room = concurrent_trials(nodes, spec.resources, left)
        with (
            Slots(room, spec.resources, run.ray_folder) as groups,
            Progress(run, study, room, console) as progress,
            Watch(groups.board, resume_hint(run)),
        ):
            groups.on_wait, groups.on_positions = functools.partial(tell_wait, run, progress.waits), progress.follow
            measure_baseline(run, spec, groups, progress)
            _tune(run, study, groups, room, progress)


def _first_words(address: str) -> str:
    """What is being done while Ray is still silent."""
    return "starting Ray on this machine" if address == "local" else f"joining the Ray cluster at {address}"


def _tune(run: Run, study: Study, groups: Slots, room: int, progress: Progress) -> None:
    searcher = StudySearcher(study, run, groups, room)
    searcher.say = progress.ends
    ended = [trial for trial in study.trials() if trial.state.is_finished()]
    tuner = tune.Tuner(
        tune.with_resources(SlotTrial, {"node:__internal_head__": 0.001}),
        tune_config=tune.TuneConfig(
            num_samples=-1,
            search_alg=searcher,
            scheduler=stopping.scheduler(study.spec, ended),
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=f"tune-{uuid.uuid4().hex[:8]}",
            storage_path=str(run.ray_folder),
            callbacks=[TensorBoard(run, study), progress],
            failure_config=tune.FailureConfig(max_failures=ACTOR_RESTARTS),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    )
    tuner.fit()
    if searcher.fault:
        raise searcher.fault
    if unfinished := [t.number for t in study.trials() if t.state == TrialState.RUNNING]:
        raise RuntimeError(f"trials {', '.join(map(str, unfinished))} cannot be run: {searcher.broken_off}")
