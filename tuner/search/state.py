"""What the core of a search knows, as a function of the journal: trials that have not ended, the queue, the speeds."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from trainables.config import trial as c
from tuner.plan.resources import Resources
from tuner.search.speeds import Speeds
from tuner.search.stoppers.base import Stopper, conclude, judge, make
from tuner.search.study import Proposal, Study, key_of

Decided = Literal["continue", "stop", "pause"]
"""What follows an epoch, as the journal has it."""


@dataclass
class LiveTrial:
    """A trial that has not ended.

    Attributes:
        proposal: as it was asked.
        width: workers of its segment.
        segment: number of its segment, from 1; 0 before the first.
        state: "waiting" for a start, "running", or "paused".
        decided: what followed each epoch.
        since: when its present epoch began; None where that is not known, as after a start from a checkpoint.
        began: whether workers have ever taken it.
        pause: whether it is to be paused after its next epoch.
        stop: whether the user has stopped it.
    """

    proposal: Proposal
    width: int
    segment: int = 0
    state: Literal["waiting", "running", "paused"] = "waiting"
    decided: dict[int, Decided] = field(default_factory=dict)
    since: float | None = None
    began: bool = False
    pause: bool = False
    stop: bool = False

    @property
    def key(self) -> str:
        """Its name everywhere."""
        return self.proposal.key

    @property
    def epochs_left(self) -> int:
        """How many epochs have not been judged."""
        return self.proposal.config.train.epochs - max(self.decided, default=0)

    def begin_segment(self, segment: int, width: int) -> None:
        """Makes another segment its present one."""
        self.segment, self.width, self.state = segment, width, "running"


def fixed_because(config: c.TrialConfig) -> str | None:
    """Returns why a trial keeps to the smallest width; None where it may get any.

    On another number of workers such a trial would not be the same to the last bit.
    """
    if config.joint:
        return "joint: a worker runs its shards in one pass"
    return "masks per_worker" if config.teacher.smoothing.masks == "per_worker" else None


def widths_of(resources: Resources, config: c.TrialConfig) -> tuple[int, ...]:
    """Returns the numbers of workers that a trial may have, ascending; the smallest alone where it keeps to that."""
    return (resources.smallest,) if fixed_because(config) else resources.widths(config.train.num_shards)


class State:
    """The state of a search, which the journal gives back after a crash.

    Args:
        study: asks, tells, and keeps the journal.
        stopper: judges trials; by default the one that the spec names.
    """

    def __init__(self, study: Study, stopper: Stopper | None = None):
        self.study = study
        self.stopper = make(study.spec) if stopper is None else stopper
        self.sign = 1.0 if study.spec.objective.mode == "max" else -1.0
        self.trials: dict[str, LiveTrial] = {}
        self.queue: deque[str] = deque()  # trials that wait for a start
        self.sequence = 0
        self.speeds = Speeds(self.resources.smallest)
        self._replay()

    @property
    def resources(self) -> Resources:
        """What a trial gets; what it may change while the search runs is that of now."""
        return self.study.spec.resources

    @property
    def running(self) -> list[str]:
        """Keys of the trials that have a segment now."""
        return [key for key, trial in self.trials.items() if trial.state == "running"]

    def record(self, key: str, content: Mapping[str, object]) -> None:
        """Notes what was heard of a trial and what was decided, before that is carried out."""
        self.study.record(key, self.sequence, content)
        self.sequence += 1

    def start_record(self, segment: int, config: c.TrialConfig) -> dict[str, object]:
        """Returns the record of a start. In an elastic search it says where a trial keeps its width, and why."""
        why = fixed_because(config) if self.resources.is_elastic else None
        start = {"event": "start", "segment": segment, "width": self.resources.smallest}
        return start if why is None else {**start, "fixed": why}

    def carry_out(self, trial: LiveTrial, epoch: int, decided: Decided) -> None:
        """Changes a trial's state as a decision after an epoch says."""
        trial.decided[epoch] = decided
        if decided == "pause":
            trial.state, trial.pause = "paused", False

    def _replay(self) -> None:
        """Takes up what the journal says: trials that have not ended, and all verdicts in their order.

        Runs that were written before there were records have curves only. Those of ended trials are told in the order
        of the trials; trials that go on tell theirs again. After a restart each trial that ran waits for a new segment.
        """
        records = self.study.records()
        recorded = {key for _, key, _ in records}
        for proposal in self.study.interrupted():
            self.trials[proposal.key] = LiveTrial(proposal, self.resources.smallest)
        for frozen in self.study.trials():
            if frozen.state.is_finished() and key_of(frozen) not in recorded:
                for epoch, value in sorted(frozen.intermediate_values.items()):
                    self._rejudge(key_of(frozen), epoch, self.sign * value, self.study.epochs_of(frozen))
        for sequence, key, content in records:
            self.sequence = sequence + 1
            self._take_up(key, content)
        for key, trial in self.trials.items():
            if trial.state != "paused":
                trial.state = "waiting"
                self.queue.append(key)

    def _take_up(self, key: str, content: Mapping[str, Any]) -> None:
        """Takes up a record. A trial that has ended since matters to the stopper and to the speeds alone."""
        trial, event = self.trials.get(key), content["event"]
        if event == "epoch":
            frozen = self.study.trial(key)
            self._rejudge(key, content["epoch"], content["score"], self.study.epochs_of(frozen))
            self.speeds.take_up(key, content)
        if event == "end":
            self.speeds.forget(key)
        if trial is None:
            return
        match event:
            case "epoch":
                self.carry_out(trial, content["epoch"], content["decision"])
            case "start" | "resize":
                trial.begin_segment(content["segment"], content["width"])
            case "wanted":
                trial.pause = content["pause"]
            case "paused":
                trial.state, trial.pause = "paused", False
            case "stop":
                trial.stop = True
            case "lost" | "promotion":
                trial.state = "waiting"

    def _rejudge(self, key: str, epoch: int, score: float, epochs: int) -> None:
        """Tells the stopper an epoch that was judged before; its verdict is in the journal."""
        if epoch >= epochs:
            conclude(self.stopper, key, epoch, score)
        else:
            judge(self.stopper, key, epoch, score)
