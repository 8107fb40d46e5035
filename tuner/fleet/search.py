"""Builds, runs and resumes the Tune run of a search. The journal is the truth: a resume starts Tune anew over it."""

import contextlib
import functools
import io
import logging
import os
import signal
import sys
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray
from optuna.trial import TrialState
from ray import tune
from ray.tune.search import Searcher
from rich.console import Console

from trainables.config import trial as c
from trainables.config.errors import BrokenOff, TrialFailure, UserError
from trainables.running.surroundings import fault
from tuner.fleet import slots
from tuner.fleet.slots import Conversation, Slots
from tuner.fleet.trial import SlotTrial
from tuner.fleet.watch import Watch
from tuner.plan import jobs
from tuner.plan.spec import Resources, SearchSpec, spec_key
from tuner.report.bars import Bars
from tuner.report.progress import Progress
from tuner.report.tensorboard import TensorBoard
from tuner.report.view import failed_alike, resume_hint
from tuner.runs.run import BASELINE, Run
from tuner.search import stopping
from tuner.search.allocation import concurrent_trials, local_cpus
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
            groups.on_wait, groups.on_positions = functools.partial(_wait, run, progress.waits), progress.follow
            _measure_baseline(run, spec, groups, progress)
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


def _measure_baseline(run: Run, spec: SearchSpec, groups: Slots, progress: Progress) -> None:
    """Scores the untrained encoder, once a run: what every trial has to beat."""
    unknown = run.read_baseline() is None
    progress.say("starting workers" + (", then the untrained encoder is scored" if unknown else ""))
    if unknown:
        config = c.changed(spec.trial.plain(), {"train.epochs": 0})
        try:
            run.write_baseline(converse(groups, run, BASELINE, config)[-1])
        except TrialFailure as failure:
            where, reason = run.trial_log(BASELINE, str(failure)), spec_key(str(failure).removeprefix("UserError: "))
            raise TrialFailure(f"the untrained encoder cannot be scored: {reason}\n  log: {where}") from None


def converse(groups: Slots, run: Run, key: str, config: c.TrialConfig, hear: Any = None) -> list[dict[str, Any]]:
    """Runs one trial on a slot, without Tune; returns its metric history.

    Args:
        groups: the slots.
        run: for the trial's folder.
        key: of the trial.
        config: of the trial.
        hear: called with each epoch's metrics.

    Raises:
        TrialFailure: the trial ended with an error.
    """
    work = {"key": key, "config": config.plain(), "folder": str(run.trial_folder(key))}
    talk, history = Conversation(groups.board, key, work), []
    try:
        while (metrics := talk.take()) is not None:
            history.append(metrics)
            if hear is not None:
                hear(metrics)
            if metrics["epoch"] >= config.train.epochs:
                break
    finally:
        talk.release()
    return history


@contextlib.contextmanager
def cluster(address: str, run: Run) -> Iterator[list[dict[str, float]]]:
    """A Ray session at an address, for the life of the block; yields the resources of each node.

    Raises:
        UserError: no cluster is there.
    """
    handed_on = {name: os.environ[name] for name in ("TEACHER_TUNER_CACHE",) if name in os.environ}
    variables = {name: value for name, value in (slots.VARIABLES | handed_on).items() if name not in jobs.variables()}
    os.environ.update(slots.VARIABLES)
    os.environ.update(
        {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0"}
    )
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"  # a trial may fail before it has any metric
    os.environ.update(
        {"RAY_AIR_NEW_OUTPUT": "0", "TUNE_DISABLE_SIGINT_HANDLER": "1", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    )
    local: dict[str, Any] = {"num_cpus": local_cpus(), "include_dashboard": False} if address == "local" else {}
    _end_like_interrupted()
    with quiet(run.driver_log):
        try:
            try:
                ray.init(
                    address=address,
                    log_to_driver=False,
                    configure_logging=False,
                    runtime_env={"env_vars": variables},
                    **local,
                )
            except (ConnectionError, RuntimeError, TimeoutError, ValueError) as error:
                raise UserError(
                    f"address = '{address}': no Ray cluster could be joined ({str(error).splitlines()[0]})"
                ) from None
            _end_like_interrupted()  # Ray has put a handler of its own there, which aborts
            nodes = [_hardware(node["Resources"]) for node in ray.nodes() if node["Alive"]]
            run.note_hardware(nodes)
            yield nodes
        except (
            KeyboardInterrupt
        ):  # without a shutdown, which would wait for workers in the middle of an epoch; Ray goes with its driver
            raise KeyboardInterrupt(f"interrupted; {resume_hint(run)}") from None
        except (UserError, TrialFailure):
            ray.shutdown()
            raise
        except BrokenOff as end:  # without a shutdown, as above: Ray may be what is gone
            raise BrokenOff(f"{end}; {resume_hint(run)}") from end
        except Exception as error:
            log.exception("the driver broke off")
            ray.shutdown()
            raise BrokenOff(f"{_reason(error, run)}; {resume_hint(run)}") from error
        else:
            ray.shutdown()
        finally:
            run.clear()


def _reason(error: Exception, run: Run) -> str:
    """Why a driver broke off. Tune wraps the errors of its callbacks."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, BrokenOff):
            return str(seen)
        seen = seen.__cause__ or seen.__context__
    if surroundings := fault(error, run.path):
        return surroundings
    return (
        f"broken off by {type(error).__name__}: {(str(error).strip().splitlines() or [''])[-1]} (log: {run.driver_log})"
    )


def _wait(run: Run, say: Callable[[str], None], why: str) -> None:
    """Tells the terminal and readers of the run what a search waits for, or, where `why` is empty, that it goes on."""
    run.note(f"waiting: {why}" if why else "")
    say(why)


def _end_like_interrupted() -> None:
    """A job that is asked to end says how to go on, as after ^C."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def _hardware(resources: dict[str, float]) -> dict[str, float]:
    return {
        name: amount
        for name, amount in resources.items()
        if name in ("CPU", "GPU", "memory") or name.startswith("accelerator_type")
    }


class Sink(io.TextIOBase):
    """A log that loses what there is no room for on its disc, rather than break what it is the log of.

    Args:
        path: of the file, which is appended to.
    """

    def __init__(self, path: Path):
        self.file = path.open("ab", buffering=0)

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self.file.write(text.encode(errors="replace"))
        return len(text)

    def fileno(self) -> int:
        return self.file.fileno()


@contextlib.contextmanager
def quiet(path: Path) -> Iterator[None]:
    """Whatever is logged or printed goes to a file; the terminal belongs to those who hold its console."""
    sink = Sink(path)  # stays open, for Ray logs until the process ends
    handler = logging.StreamHandler(sink)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    for name in ("ray", "ray.tune", "ray.train", "tuner", "trainables"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
    # it warns that Tune has no results of its own, which nobody reads: the journal has them
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
        yield


def one_slot(
    run: Run, address: str, wanted: Resources, key: str, config: c.TrialConfig, hear: Any, bars: Bars
) -> list[dict[str, Any]]:
    """A full run: one trial on one slot, with its own Ray session; `bars` are for the terminal."""
    with cluster(address, run) as nodes:
        concurrent_trials(nodes, wanted, 1)
        with Slots(1, wanted, run.ray_folder) as groups, Watch(groups.board, resume_hint(run)):
            groups.on_wait = functools.partial(
                _wait, run, lambda why: bars.say(f"waiting: {why}" if why else "going on")
            )
            groups.on_positions = lambda positions: bars.tell(*positions[key]) if key in positions else None
            return converse(groups, run, key, config, hear)
