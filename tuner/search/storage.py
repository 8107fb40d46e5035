"""Storage in Optuna's sense: a study's journal and its mirror in memory. Nothing else touches Optuna's internals.

Every change is a line of the journal first. The mirror then holds the very same trial objects, so a sampler reads all
trials without a copy, and the next proposal is drawn in the mirror as a draft that can be taken back.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._storage import JournalOperation
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from trainables.config.errors import BrokenOff, UserError

NAME = "search"  # of the study in its journal
EXHAUSTED = "exhausted"  # the study's attribute that says that a sampler has nothing more to propose
WRITES = 5  # tries to write a line of the journal: a checkpoint may fill the disc for a moment
WRITE_WAIT = 1.0  # seconds after each

Direction = Literal["maximize", "minimize"]


class Store:
    """All trials of a study, in a journal and in memory. Trials are named by their number.

    Args:
        journal: path of the journal file; None keeps the study in memory alone.
        direction: of the objective.
        reading: whether the study is only looked at; a reader leaves no trace on the disc.

    Raises:
        UserError: the journal is damaged.
    """

    def __init__(self, journal: Path | None, direction: Direction, reading: bool = False):
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._mirror = _Mirror()
        self._journal = None if journal is None else _opened(journal, reading)
        begun = self._journal is not None and NAME in optuna.get_all_study_names(self._journal)
        if reading and not begun:
            self._journal = None
        sense = StudyDirection.MAXIMIZE if direction == "maximize" else StudyDirection.MINIMIZE
        self._id = self._mirror.create_new_study([sense], NAME)
        self._journal_id = self._id
        if self._journal is not None:
            if not begun:
                self._journal.create_new_study([sense], NAME)
            self._journal_id = self._journal.get_study_id_from_name(NAME)
            self._mirror.take_over(self._journal, self._journal_id)
        self._study = optuna.load_study(storage=self._mirror, study_name=NAME)
        self._count = self._mirror.count()  # trials of the study; a draft in the mirror is none

    def trials(self) -> list[FrozenTrial]:
        """All trials, in the order in which they were asked. They are shared: callers must not change them.

        A trial that is being drawn is not among them: other threads may read while this one draws.
        """
        count = self._count  # before the trials: a trial is counted once it is there
        return self._mirror.get_all_trials(self._id, deepcopy=False)[:count]

    def trial(self, number: int) -> FrozenTrial:
        """A trial by its number."""
        return self._mirror.trial(number)

    def __len__(self) -> int:
        return self._count

    # the study's own attributes

    def attribute(self, name: str) -> Any:
        """A user attribute of the study; None where it has none of that name."""
        return self._mirror.get_study_user_attrs(self._id).get(name)

    def set_attribute(self, name: str, value: object) -> None:
        """Sets a user attribute of the study."""
        if self._journal is not None:
            self._journal.set_study_user_attr(self._journal_id, name, value)
        self._mirror.set_study_user_attr(self._id, name, value)

    @property
    def exhausted(self) -> bool:
        """Whether a sampler has said that it has nothing more to propose."""
        return bool(self.attribute(EXHAUSTED))

    # asking

    @contextlib.contextmanager
    def draft(
        self, sampler: optuna.samplers.BaseSampler, fixed: Mapping[str, object] | None = None
    ) -> Iterator["Draft"]:
        """The next trial while it is drawn; it enters the study when the block calls `Draft.commit`.

        A block that raises, or that does not commit, leaves no trace: no numbered trial, no attribute of the sampler.

        Args:
            sampler: what draws.
            fixed: values by suggested name that are taken as they are.
        """
        before = dict(self._mirror.get_study_system_attrs(self._id))
        self._study.sampler = sampler
        draft = Draft(self, before)
        try:
            if fixed is not None:
                self._study.enqueue_trial(dict(fixed))
            draft.trial = self._study.ask()
            yield draft
        finally:
            if not draft.committed:
                self._mirror.take_back(self._id, draft.number, before)

    def _commit(self, draft: "Draft", user_attrs: dict[str, object], system_attrs: dict[str, object]) -> int:
        """Moves a draft from the mirror into the journal, as one line; returns the trial's number."""
        drawn, number = self._mirror.trial(draft.number), draft.number
        made = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=drawn.params,
            distributions=drawn.distributions,
            user_attrs=user_attrs,
            system_attrs={**drawn.system_attrs, **system_attrs},
        )
        changed = dict(self._mirror.get_study_system_attrs(self._id))
        self._mirror.take_back(self._id, number, changed)
        self._keep_study_attributes(draft.before, changed)
        if self._journal is None:
            self._mirror.create_new_trial(self._id, made)
        else:
            self._journal.create_new_trial(self._journal_id, made)
            self._mirror.put(self._id, self._journal.get_trial(self._journal_number(number)))
        draft.committed, self._count = True, number + 1
        return number

    # telling

    def set_user_attribute(self, number: int, name: str, value: object) -> None:
        """Sets a user attribute of a trial that has not ended."""
        self._write("set_trial_user_attr", number, name, value)

    def set_system_attribute(self, number: int, name: str, value: object) -> None:
        """Sets a system attribute of a trial that has not ended."""
        self._write("set_trial_system_attr", number, name, value)

    def set_intermediate_value(self, number: int, step: int, value: float) -> None:
        """Sets the objective of a trial that has not ended at an epoch."""
        self._write("set_trial_intermediate_value", number, step, value)

    def end(
        self, number: int, state: TrialState, values: Sequence[float] | None, sampler: optuna.samplers.BaseSampler
    ) -> None:
        """Ends a trial, after its sampler has seen the end: what the sampler notes of it enters the journal first."""
        frozen, study_before = self.trial(number), dict(self._mirror.get_study_system_attrs(self._id))
        trial_before = dict(frozen.system_attrs)
        self._study._thread_local.in_optimize_loop = True  # so that a sampler may call `Study.stop`
        try:
            sampler.after_trial(self._study, frozen, state, values)
        finally:
            self._study._thread_local.in_optimize_loop = False
        if self._study._stop_flag and not self.exhausted:
            self.set_attribute(EXHAUSTED, True)
        noted = self.trial(number).system_attrs
        for name in [name for name in noted if name not in trial_before or noted[name] != trial_before[name]]:
            self.set_system_attribute(number, name, noted[name])
        self._keep_study_attributes(study_before, dict(self._mirror.get_study_system_attrs(self._id)))
        self._write("set_trial_state_values", number, state, values)

    def _write(self, operation: str, number: int, *arguments: Any) -> None:
        """A change of a trial: a line of the journal, whose new trial object the mirror takes over."""
        if self._journal is None:
            getattr(self._mirror, operation)(self._mirror.trial(number)._trial_id, *arguments)
            return
        trial_id = self._journal_number(number)
        getattr(self._journal, operation)(trial_id, *arguments)
        self._mirror.put(self._id, self._journal.get_trial(trial_id))

    def _keep_study_attributes(self, before: dict[str, Any], after: dict[str, Any]) -> None:
        """Writes what a sampler has noted at the study."""
        for name in [name for name in after if name not in before or after[name] != before[name]]:
            if self._journal is not None:
                self._journal.set_study_system_attr(self._journal_id, name, after[name])

    def _journal_number(self, number: int) -> int:
        assert self._journal is not None
        return self._journal.get_trial_id_from_study_id_trial_number(self._journal_id, number)


class Draft:
    """A trial while it is drawn.

    Attributes:
        trial: to suggest from.
        committed: whether it has entered the study.
        before: what samplers had noted at the study before it.
    """

    trial: optuna.Trial

    def __init__(self, store: Store, before: dict[str, object]):
        self._store, self.before, self.committed = store, before, False
        self.number = len(store)

    def commit(self, user_attrs: dict[str, object], system_attrs: dict[str, object]) -> int:
        """Enters the trial as running, with attributes; returns its number."""
        return self._store._commit(self, user_attrs, system_attrs)


class _Mirror(InMemoryStorage):
    """Optuna's storage in memory, which can take over trials as they are, and take the last one back."""

    def take_over(self, source: BaseStorage, source_study: int) -> None:
        """Holds the trials and attributes of a study of another storage; trials are shared, not copied."""
        (study,) = self._studies
        for trial in source.get_all_trials(source_study, deepcopy=False):
            self.put(study, trial)
        self._studies[study].user_attrs = dict(source.get_study_user_attrs(source_study))
        self._studies[study].system_attrs = dict(source.get_study_system_attrs(source_study))

    def put(self, study: int, trial: FrozenTrial) -> None:
        """Takes a trial in the place of the one with its number, or as the next one."""
        with self._lock:
            trials = self._studies[study].trials
            if trial.number < len(trials):
                trials[trial.number] = trial
            else:
                assert trial.number == len(trials)
                trials.append(trial)
                self._trial_id_to_study_id_and_number[trial._trial_id] = (study, trial.number)
                self._max_trial_id = max(self._max_trial_id, trial._trial_id)

    def take_back(self, study: int, count: int, system_attrs: dict[str, object]) -> None:
        """Leaves `count` trials, and the study's system attributes as they were."""
        with self._lock:
            for trial in self._studies[study].trials[count:]:
                del self._trial_id_to_study_id_and_number[trial._trial_id]
            del self._studies[study].trials[count:]
            left = self._studies[study].trials
            self._max_trial_id = left[-1]._trial_id if left else -1  # ids rise with the numbers
            self._prev_waiting_trial_number[study] = min(self._prev_waiting_trial_number[study], count)
            self._studies[study].system_attrs = system_attrs
            self._studies[study].param_distribution.clear()  # of drafts; a space may change the choices of a name

    def trial(self, number: int) -> FrozenTrial:
        """A trial by its number."""
        (study,) = self._studies.values()
        return study.trials[number]

    def count(self) -> int:
        """How many trials there are."""
        (study,) = self._studies.values()
        return len(study.trials)


class _Journal(JournalFileBackend):
    """A journal that gets whole lines or none.

    A line that a full disc cuts short is taken back and tried again; after the last try the search ends.

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
            except (OSError, RuntimeError) as error:  # RuntimeError: Optuna's lock could not be removed again
                reason = getattr(error, "strerror", None) or str(error)
                with contextlib.suppress(OSError):
                    os.truncate(self.path, size)
                time.sleep(WRITE_WAIT)
        raise BrokenOff(f"{self.path}: cannot be written ({reason}); mend that first")


def _opened(journal: Path, reading: bool) -> JournalStorage | None:
    """The journal, replayed; None for a reader where there is none.

    Raises:
        UserError: the file holds something else than Optuna's operations.
    """
    if not reading:
        _mend(journal)
    elif not journal.exists():
        return None
    try:
        storage = JournalStorage(_Journal(str(journal)))
        whole = journal.read_bytes().rpartition(b"\n")[0] if journal.exists() else b""
        # Optuna passes over a last line that is none of its own, and trips on with the next one
        if whole and not _operation(whole.rpartition(b"\n")[2]):
            raise ValueError
        return storage
    except OSError:
        raise
    except Exception as error:  # Optuna replays what it reads unchecked: a damaged line may raise anything
        with journal.open("rb") as lines:
            numbered = enumerate(lines, start=1)
            odd = next(
                (f"line {number} is none of Optuna's" for number, line in numbered if not _operation(line)), None
            )
        raise damaged(journal, odd or f"{type(error).__name__}: {error}") from None


def _operation(line: bytes) -> bool:
    """Whether a line of a journal has the form of Optuna's."""
    try:
        content = json.loads(line)
    except ValueError:
        return False
    return isinstance(content, dict) and content.get("op_code") in list(JournalOperation) and "worker_id" in content


def damaged(journal: Path, why: str) -> UserError:
    """The error of a journal that cannot be used."""
    advice = "put the whole file back from a copy, or launch the search again with another --run"
    return UserError(f"{journal}: is damaged ({why}); {advice}")


def _mend(journal: Path) -> None:
    """Removes a last line that a killed process did not finish, and its lock. The caller holds the run."""
    journal.with_name(journal.name + ".lock").unlink(missing_ok=True)
    if not journal.exists():
        return
    with journal.open("r+b") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        last = content[content.rfind(b"\n", 0, max(0, whole - 1)) + 1 : whole]
        if last and not _operation(last):  # Optuna may take it for a line that is being written, until another follows
            raise damaged(journal, f"line {len(content[:whole].splitlines())} is none of Optuna's")
        if whole < len(content):
            file.truncate(whole)
