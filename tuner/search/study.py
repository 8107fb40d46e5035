"""The study: the one truth of what was asked and told. Every trial is asked once and told once."""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from trainables.config import formats
from trainables.config import trial as c
from trainables.config.errors import UserError
from tuner.plan import points
from tuner.plan.reading import require_same
from tuner.plan.space import Space
from tuner.plan.spec import SearchSpec
from tuner.search.collapse import collapsed
from tuner.search.failures import alike
from tuner.search.records import fault_in, record_name, records_of, was_stopped_as_asked
from tuner.search.samplers import base as samplers
from tuner.search.storage import Store, damaged

Metrics = Mapping[str, Any]
RecordOf = Callable[[c.TrialConfig], Mapping[str, object]]
SamplerOf = Callable[[SearchSpec, int], optuna.samplers.BaseSampler]
LAUNCHED = "launched"  # the study's attribute with what the search was launched with
PASSED_OVER = (
    "passed_over"  # the study's attribute with the number of ended trials whose failures do not count any more
)


@dataclass(frozen=True)
class Proposal:
    """A trial as it was asked.

    Attributes:
        key: its name everywhere.
        values: the proposed values by dotted key.
        config: the configuration that they make.
        point: its label in a table; None where a space proposed it.
    """

    key: str
    values: dict[str, Any]
    config: c.TrialConfig
    point: str | None = None


class Study:
    """What a search knows. Only the process that holds the run may open it for writing.

    Args:
        journal: path of the journal file; None keeps the study in memory, for simulations.
        spec: of the search.
        space: what to ask; a reader may do without.
        reading: whether the study is only looked at.
        sampler_of: gives a fresh sampler for a trial's number; by default the one that the spec names.

    Raises:
        UserError: the journal is damaged, or the spec or the space has changed since the launch.
    """

    def __init__(
        self,
        journal: Path | None,
        spec: SearchSpec,
        space: Space | None,
        reading: bool = False,
        sampler_of: SamplerOf = samplers.make,
    ):
        self.spec, self.space, self._sampler_of = spec, space, sampler_of
        self._configs: dict[str, c.TrialConfig] = {}  # of the trials that were asked here and not told yet, by key
        self._store = Store(journal, "maximize" if spec.objective.mode == "max" else "minimize", reading)
        without = [trial.number for trial in self.trials() if not isinstance(trial.user_attrs.get("values"), dict)]
        if journal is not None and without:
            raise damaged(journal, f"trial {without[0]} has no values")
        if journal is not None and (fault := fault_in(self.trials())):
            raise damaged(journal, fault)
        self._compare_with_launch(reading)

    def _compare_with_launch(self, reading: bool) -> None:
        """Notes once what defines the trials, and later refuses what differs, for its trials could not be compared.

        A reader notes nothing, and has no space to compare.
        """
        file = self.space.file if self.space else None
        code = None if file is None else hashlib.sha256(file.read_bytes()).hexdigest()
        launched = self._store.attribute(LAUNCHED)
        if launched is None:  # also of a run that was launched before this was noted
            if not reading:
                content = {"spec": self.spec.plain(), "space": code, "format": formats.FORMAT}
                self._store.set_attribute(LAUNCHED, content)
            return
        require_same(formats.search_as_written(launched["spec"], launched.get("format", 1)), self.spec)
        if self.space is not None and launched["space"] != code:
            rule = "has changed since the launch, and trials of both spaces cannot be compared; put it back"
            raise UserError(f"{file}: {rule}")

    def take_over(self, spec: SearchSpec) -> None:
        """Goes on with another spec, which differs in what may change while the search runs.

        Raises:
            UserError: a key that makes a trial what it is has changed.
        """
        require_same(self.spec.plain(), spec)
        self.spec = spec

    def trials(self) -> list[FrozenTrial]:
        """All trials, in the order in which they were asked."""
        return self._store.trials()

    def trial(self, key: str) -> FrozenTrial:
        """A trial by its key."""
        return self._store.trial(int(key))

    def ask(self, record: RecordOf | None = None) -> Proposal | None:
        """Proposes the next trial; None where all have been proposed.

        A proposal is a function of the seed, of the trial's number and of what has been told, so it does not matter how
        often the search was interrupted. It enters the journal as one line: a process that dies here leaves a whole
        trial, or none.

        Args:
            record: gives system attributes of the new trial, by name, from its configuration.

        Raises:
            UserError: the space raises, hangs, or proposes no valid trial; then nothing has entered the journal.
        """
        assert self.space is not None
        number = len(self._store)
        if not self.unasked:
            return None
        with self._store.draft(self._sampler_of(self.spec, number), self._fixed(number)) as draft:
            try:
                values, config = self.space.propose(draft.trial, self.spec.trial)
            except UserError as error:
                advice = "a resume would meet it again: mend the space, and launch it as another run"
                when = f"(when it was asked for trial {number:04d}); {advice}; this one's trials are kept"
                raise UserError(f"{error} {when}") from None
            attributes = {"values": values, "format": formats.FORMAT, "version": formats.version()}
            draft.commit(attributes, dict(record(config)) if record else {})
        trial = self._store.trial(number)
        self._configs[key_of(trial)] = config
        return Proposal(key_of(trial), values, config, points.label_of(self.spec, trial))

    @property
    def unasked(self) -> int:
        """How many trials are still to be proposed; none once the sampler has said that it has no more."""
        return 0 if self._store.exhausted else max(0, self.spec.trials - len(self._store))

    def _fixed(self, number: int) -> Mapping[str, object] | None:
        """What trial `number` takes as it is, by suggested name: a known good point; None where the sampler draws."""
        assert self.space is not None
        return self.space.known_good[number] if number < len(self.space.known_good) else None

    def interrupted(self) -> list[Proposal]:
        """Trials that were asked and not told: those of a driver that died, when no other one runs."""
        return [self.proposal(trial) for trial in self.trials() if trial.state == TrialState.RUNNING]

    def proposal(self, trial: FrozenTrial) -> Proposal:
        """A trial of the study as it was proposed."""
        point = points.label_of(self.spec, trial)
        return Proposal(key_of(trial), trial.user_attrs["values"], self.config_of(trial), point)

    def config_of(self, trial: FrozenTrial) -> c.TrialConfig:
        """The configuration that a trial was run with."""
        values = formats.values_as_written(trial.user_attrs["values"], trial.user_attrs.get("format", 1))
        return c.changed(self.spec.trial.plain(), values)

    def epochs_of(self, trial: FrozenTrial) -> int:
        """How long a trial is; rows of a table may differ in it."""
        return trial.user_attrs["values"].get("train.epochs", self.spec.trial.train.epochs)

    def begin(self, key: str, now: float) -> None:
        """Notes when a trial was handed to workers; one that an earlier session left is queued until then."""
        self._store.set_user_attribute(int(key), "started_at", now)

    def record(self, key: str, sequence: int, content: Mapping[str, object]) -> None:
        """Notes what the core has heard of a trial and what it has decided, before that is carried out."""
        self._store.set_system_attribute(int(key), record_name(sequence), dict(content))

    def records(self) -> list[tuple[int, str, dict[str, Any]]]:
        """What `record` and `ask` have noted, in its order: sequence number, key of the trial, content."""
        return [(sequence, key_of(trial), content) for sequence, trial, content in records_of(self.trials())]

    def observe(self, key: str, metrics: Metrics) -> None:
        """Notes the objective at an epoch. Hearing an epoch again changes nothing."""
        epoch, value = int(metrics["epoch"]), float(metrics[self.spec.objective.metric])
        if self.trial(key).intermediate_values.get(epoch) != value and not math.isnan(value):
            self._store.set_intermediate_value(int(key), epoch, value)

    def tell(self, key: str, metrics: Metrics, error: str | None, details: Mapping[str, object]) -> None:
        """Ends a trial: failed with its error, complete at its last epoch, or stopped before it.

        A trial that was told stays as it is. Whether its last embeddings were collapsed is noted too; that changes
        neither its end nor its score.

        Args:
            key: of the trial.
            metrics: the last ones.
            error: why it failed, None where it did not.
            details: what else is to be known of it, such as its slot.
        """
        trial = self.trial(key)
        if trial.state.is_finished():
            return
        numbers = {
            name: value for name, value in metrics.items() if name != "loss_curve"
        }  # the checkpoint has the curve
        config = self._configs.pop(key, None) or self.config_of(trial)
        flat = collapsed(metrics, config.encoder.projector.prototypes)
        for name, value in {**details, "metrics": numbers, "error": error, "collapsed": flat}.items():
            self._store.set_user_attribute(trial.number, name, value)
        value = metrics.get(self.spec.objective.metric)
        if error is not None or value is None or not math.isfinite(value):
            state, value = TrialState.FAIL, None
        elif metrics["epoch"] >= self.epochs_of(trial):
            state = TrialState.COMPLETE
        else:
            state = TrialState.PRUNED
        values = None if value is None else [value]
        self._store.end(trial.number, state, values, self._sampler_of(self.spec, trial.number))

    def failed_alike(self) -> list[FrozenTrial]:
        """The last three trials, where they failed alike before their first epoch since the search began or went on."""
        return alike(self.trials(), self._store.attribute(PASSED_OVER) or 0)

    def pass_over_failures(self) -> None:
        """Goes on in spite of trials that failed alike; they stay as told, and three more end the search again."""
        if self.failed_alike():
            self._store.set_attribute(PASSED_OVER, sum(trial.state.is_finished() for trial in self.trials()))

    def best(self, count: int) -> list[FrozenTrial]:
        """The best complete trials, best first; of a table its best points, each as its trial with the first seed."""
        if self.spec.table:
            return points.best(self.spec, self.trials())[:count]
        return self._ranked(TrialState.COMPLETE)[:count]

    def best_stopped(self) -> FrozenTrial | None:
        """The stopped trial with the best last score, where the user ended the search before any trial was complete.

        None for any other search, and for a table, whose points are compared over all of their seeds.
        """
        trials = self.trials()
        if self.spec.table or not all(trial.state.is_finished() for trial in trials) or self.best(1):
            return None
        return next(iter(self._ranked(TrialState.PRUNED)), None) if any(map(was_stopped_as_asked, trials)) else None

    def _ranked(self, state: TrialState) -> list[FrozenTrial]:
        """All trials of a state, best first."""
        sign = -1 if self.spec.objective.mode == "max" else 1
        ranked = [trial for trial in self.trials() if trial.state == state]
        return sorted(ranked, key=lambda trial: (sign * trial.values[0], trial.number))


def key_of(trial: FrozenTrial) -> str:
    """A trial's name everywhere: its number in the study, not Ray's id, which a resume changes."""
    return f"{trial.number:04d}"
