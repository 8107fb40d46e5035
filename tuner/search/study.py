"""The Optuna study on a journal file: the one truth of what was asked and told. Every trial is asked once and told once."""

import contextlib
import hashlib
import json
import math
import os
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._storage import JournalOperation
from optuna.trial import FrozenTrial, TrialState

from trainables.config import formats
from trainables.config import trial as c
from trainables.config.errors import BrokenOff, UserError
from tuner.plan import points
from tuner.plan.space import Space
from tuner.plan.spec import SearchSpec, require_same
from tuner.search.collapse import collapsed
from tuner.search.failures import alike

Metrics = Mapping[str, Any]


NAME = "search"
WRITES = 5  # tries to write a line of the journal: a checkpoint may fill the disc for a moment
WRITE_WAIT = 1.0  # seconds after each
LAUNCHED = "launched"  # the study's attribute with what the search was launched with
PASSED_OVER = (
    "passed_over"  # the study's attribute with the number of ended trials whose failures do not count any more
)


@dataclass(frozen=True)
class Proposal:
    """A trial: its key, the dotted values that were proposed for it, the configuration that they make, and its point of a table."""

    key: str
    values: dict[str, Any]
    config: c.TrialConfig
    point: str | None = None


class Study:
    """What a search knows. Only the process that holds the run may open it for writing.

    Args:
        journal: path of the journal file.
        spec: of the search.
        space: what to ask; a reader may do without.
        reading: whether the study is only looked at.

    Raises:
        UserError: the journal is damaged, or the spec or the space has changed since the launch.
    """

    def __init__(self, journal: Path, spec: SearchSpec, space: Space | None, reading: bool = False):
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.simplefilter(
            "ignore", optuna.exceptions.ExperimentalWarning
        )  # of TPE's `group`, without which conditional spaces suffer
        self.spec, self.space = spec, space
        if not reading:
            _mend(journal)
        if reading and not journal.exists():  # a reader leaves no trace
            self._storage: optuna.storages.BaseStorage = optuna.storages.InMemoryStorage()
        else:
            self._storage = _storage(journal)
        begun = NAME in optuna.get_all_study_names(self._storage)
        if reading and not begun:
            self._storage = optuna.storages.InMemoryStorage()
        if begun:
            self._study = optuna.load_study(storage=self._storage, study_name=NAME)
        else:
            self._study = optuna.create_study(storage=self._storage, study_name=NAME, direction=self._direction)
        self._ids = {key_of(trial): trial._trial_id for trial in self.trials()}
        if odd := [trial.number for trial in self.trials() if not isinstance(trial.user_attrs.get("values"), dict)]:
            raise _damaged(journal, f"trial {odd[0]} has no values")
        self._compare_with_launch(reading)

    def _compare_with_launch(self, reading: bool) -> None:
        """Notes what defines the trials in the journal, once; from then on refuses what differs, for its trials could not be compared.

        A reader notes nothing, and has no space to compare.
        """
        file = self.space.file if self.space else None
        code = None if file is None else hashlib.sha256(file.read_bytes()).hexdigest()
        launched = self._study.user_attrs.get(LAUNCHED)
        if launched is None:  # also of a run that was launched before this was noted
            if not reading:
                self._study.set_user_attr(LAUNCHED, {"spec": self.spec.plain(), "space": code})
            return
        require_same(launched["spec"], self.spec)
        if self.space is not None and launched["space"] != code:
            raise UserError(
                f"{file}: has changed since the launch, and trials of both spaces cannot be compared; put it back"
            )

    @property
    def _direction(self) -> Literal["maximize", "minimize"]:
        return "maximize" if self.spec.objective.mode == "max" else "minimize"

    def trials(self) -> list[FrozenTrial]:
        """All trials, in the order in which they were asked."""
        return self._study.get_trials(deepcopy=False)

    def ask(self) -> Proposal | None:
        """Proposes the next trial, None where all have been proposed.

        The proposal is drawn in a copy of the study and enters the journal as one line: a process that dies here leaves a trial that was
        asked, or none. It is a function of the seed, of the trial's number and of what has been told, so it does not matter how often the
        search was interrupted.

        Raises:
            UserError: the space raises, hangs, or proposes no valid trial; then nothing has entered the journal.
        """
        assert self.space is not None
        told = self.trials()
        number = len(told)
        if number >= self.spec.trials:
            return None
        scratch = optuna.create_study(direction=self._direction, sampler=_sampler(self.spec, number))
        scratch.add_trials(told)
        if number < len(self.space.known_good):
            scratch.enqueue_trial(dict(self.space.known_good[number]))
        try:
            values, config = self.space.propose(scratch.ask(), self.spec.trial)
        except UserError as error:
            advice = (
                "a resume would meet it again: mend the space, and launch it as another run; this one's trials are kept"
            )
            raise UserError(f"{error} (when it was asked for trial {number:04d}); {advice}") from None
        drawn = scratch.get_trials(deepcopy=False)[-1]
        attributes = {"values": values, "format": formats.FORMAT, "version": formats.version()}
        self._study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.RUNNING, params=drawn.params, distributions=drawn.distributions, user_attrs=attributes
            )
        )
        trial = self.trials()[-1]
        self._ids[key_of(trial)] = trial._trial_id
        return Proposal(key_of(trial), values, config, points.label_of(self.spec, trial))

    def interrupted(self) -> list[Proposal]:
        """Trials that were asked and not told: those of a driver that died, when no other one runs."""
        running = [trial for trial in self.trials() if trial.state == TrialState.RUNNING]
        return [
            Proposal(
                key_of(trial), trial.user_attrs["values"], self.config_of(trial), points.label_of(self.spec, trial)
            )
            for trial in running
        ]

    def config_of(self, trial: FrozenTrial) -> c.TrialConfig:
        """The configuration that a trial was run with."""
        return c.changed(self.spec.trial.plain(), trial.user_attrs["values"])

    def epochs_of(self, trial: FrozenTrial) -> int:
        """How long a trial is; rows of a table may differ in it."""
        return trial.user_attrs["values"].get("train.epochs", self.spec.trial.train.epochs)

    def begin(self, key: str, now: float) -> None:
        """Notes when a trial was handed to workers; one that an earlier session left is queued until then."""
        self._storage.set_trial_user_attr(self._ids[key], "started_at", now)

    def observe(self, key: str, metrics: Metrics) -> None:
        """Notes the objective at an epoch. Hearing an epoch again changes nothing."""
        epoch, value = int(metrics["epoch"]), float(metrics[self.spec.objective.metric])
        if self._trial(key).intermediate_values.get(epoch) != value and not math.isnan(value):
            self._storage.set_trial_intermediate_value(self._ids[key], epoch, value)

    def tell(self, key: str, metrics: Metrics, error: str | None, details: Mapping[str, Any]) -> None:
        """Ends a trial: failed with its error, complete at its last epoch, or stopped before it. A trial that was told stays as it is.

        Whether its last embeddings were collapsed is noted too; that changes neither its end nor its score.

        Args:
            key: of the trial.
            metrics: the last ones.
            error: why it failed, None where it did not.
            details: what else is to be known of it, such as its slot.
        """
        if self._trial(key).state.is_finished():
            return
        numbers = {
            name: value for name, value in metrics.items() if name != "loss_curve"
        }  # which is in the checkpoint and on the board
        flat = collapsed(metrics, self.config_of(self._trial(key)).encoder.projector.prototypes)
        for name, value in {**details, "metrics": numbers, "error": error, "collapsed": flat}.items():
            self._storage.set_trial_user_attr(self._ids[key], name, value)
        value = metrics.get(self.spec.objective.metric)
        if error is not None or value is None or not math.isfinite(value):
            state, value = TrialState.FAIL, None
        elif metrics["epoch"] >= self.epochs_of(self._trial(key)):
            state = TrialState.COMPLETE
        else:
            state = TrialState.PRUNED
        self._storage.set_trial_state_values(self._ids[key], state=state, values=None if value is None else [value])

    def failed_alike(self) -> list[FrozenTrial]:
        """The last three trials, where they failed alike before their first epoch since the search was begun or resumed."""
        return alike(self.trials(), self._study.user_attrs.get(PASSED_OVER, 0))

    def pass_over_failures(self) -> None:
        """Goes on in spite of trials that failed alike; they stay as they were told, and three more end the search again."""
        if self.failed_alike():
            self._study.set_user_attr(PASSED_OVER, sum(trial.state.is_finished() for trial in self.trials()))

    def best(self, count: int) -> list[FrozenTrial]:
        """The best complete trials, best first; of a table its best points, each as its trial with the first seed."""
        if self.spec.table:
            return points.best(self.spec, self.trials())[:count]
        complete = [trial for trial in self.trials() if trial.state == TrialState.COMPLETE]
        sign = -1 if self.spec.objective.mode == "max" else 1
        return sorted(complete, key=lambda trial: (sign * trial.values[0], trial.number))[:count]

    def _trial(self, key: str) -> FrozenTrial:
        return self._storage.get_trial(self._ids[key])


def key_of(trial: FrozenTrial) -> str:
    """A trial's name everywhere: its number in the study, not Ray's id, which a resume changes."""
    return f"{trial.number:04d}"


def _sampler(spec: SearchSpec, number: int) -> optuna.samplers.BaseSampler:
    """A fresh sampler for each trial, so that there is no stream of random numbers to be restored."""
    seed = (spec.seed * 1_000_003 + number) % 2**32
    if spec.sampler.kind == "random":
        return optuna.samplers.RandomSampler(seed)
    startup = spec.sampler.startup_trials
    return optuna.samplers.TPESampler(
        seed=seed, n_startup_trials=startup, multivariate=True, group=True, constant_liar=True
    )


class _Journal(JournalFileBackend):
    """A journal that gets whole lines or none: what a full disc cuts short is taken back, tried again, and ends the search in the end.

    Args:
        path: of the file.
    """

    def __init__(self, path: str):
        super().__init__(path)
        self.path = path

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        size = os.stat(self.path).st_size
        for _ in range(WRITES):
            try:
                super().append_logs(logs)
                return
            except (
                OSError,
                RuntimeError,
            ) as error:  # RuntimeError: Optuna's, of a lock that could not be taken away again
                reason = getattr(error, "strerror", None) or str(error)
                with contextlib.suppress(OSError):
                    os.truncate(self.path, size)
                time.sleep(WRITE_WAIT)
        raise BrokenOff(f"{self.path}: cannot be written ({reason}); mend that first")


def _storage(journal: Path) -> JournalStorage:
    """The journal, replayed.

    Raises:
        UserError: it holds something else than Optuna's operations.
    """
    try:
        storage = JournalStorage(_Journal(str(journal)))
        whole = journal.read_bytes().rpartition(b"\n")[0] if journal.exists() else b""
        if whole and not _operation(
            whole.rpartition(b"\n")[2]
        ):  # which Optuna passes over, and trips on with the next line
            raise ValueError
        return storage
    except OSError:
        raise
    except Exception as error:  # Optuna replays what it reads without a look at it: anything may come of a damaged line
        with journal.open("rb") as lines:
            odd = next(
                (
                    f"line {number} is none of Optuna's"
                    for number, line in enumerate(lines, start=1)
                    if not _operation(line)
                ),
                None,
            )
        raise _damaged(journal, odd or f"{type(error).__name__}: {error}") from None


def _operation(line: bytes) -> bool:
    """Whether a line of a journal has the form of Optuna's."""
    try:
        content = json.loads(line)
    except ValueError:
        return False
    return isinstance(content, dict) and content.get("op_code") in list(JournalOperation) and "worker_id" in content


def _damaged(journal: Path, why: str) -> UserError:
    return UserError(
        f"{journal}: is damaged ({why}); put the whole file back from a copy, or launch the search again with another --run"
    )


def _mend(journal: Path) -> None:
    """Cuts off a last line that a killed process did not finish, and the lock that it left; the caller holds the run."""
    journal.with_name(journal.name + ".lock").unlink(missing_ok=True)
    if not journal.exists():
        return
    with journal.open("r+b") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        last = content[content.rfind(b"\n", 0, max(0, whole - 1)) + 1 : whole]
        if last and not _operation(last):  # to Optuna it may be a line that is being written, until another one follows
            raise _damaged(journal, f"line {len(content[:whole].splitlines())} is none of Optuna's")
        if whole < len(content):
            file.truncate(whole)
