"""The core of a search: a state machine. Events come in, decisions go out.

It is a function of the journal and of the events.

It knows no Ray, no clock and no file but the study's. The fleet carries its decisions out on a cluster, and the
simulator in virtual time. Every event that changes something is noted in the journal together with its decision, under
a sequence number, before the decision is carried out; a resume builds the core again from these records.

A segment is a stretch of a trial on some workers. A pause, a promotion, a resize and a fault all end a segment, and
another one starts from the trial's newest checkpoint.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from trainables.config.errors import UserError
from tuner.search.allocation import trials_at_once
from tuner.search.events import (
    Continue,
    Decision,
    EpochEnded,
    Event,
    Finish,
    Pause,
    PauseWanted,
    PromotionWanted,
    Resize,
    SegmentBegan,
    SegmentLost,
    Start,
    Stop,
    TrialEnded,
    Wait,
    WidthWanted,
    WorkWanted,
)
from tuner.search.records import record_name
from tuner.search.stoppers.base import Stopper, Verdict, conclude, judge, make, promoted
from tuner.search.study import Proposal, Study, key_of

Decided = Literal["continue", "stop", "pause", "resize"]
"""What follows an epoch, as the journal has it."""


@dataclass
class _Trial:
    """A trial that has not ended.

    Attributes:
        proposal: as it was asked.
        width: workers of its segment.
        segment: number of its segment, from 1; 0 before the first.
        state: "waiting" for a start, "running", or "paused".
        decided: what followed each epoch.
        began: whether workers have ever taken it.
        pause: whether it is to be paused after its next epoch.
        next_width: workers of its next segment.
    """

    proposal: Proposal
    width: int
    segment: int = 0
    state: Literal["waiting", "running", "paused"] = "waiting"
    decided: dict[int, Decided] = field(default_factory=dict)
    began: bool = False
    pause: bool = False
    next_width: int | None = None


class Core:
    """What runs, how long and how wide.

    Args:
        study: asks, tells, and keeps the journal.
        stopper: judges trials; by default the one that the spec names.
    """

    def __init__(self, study: Study, stopper: Stopper | None = None):
        self.study = study
        self.stopper = make(study.spec) if stopper is None else stopper
        self.fault: UserError | None = None  # of the space or the stopper, for which nothing more is proposed
        self.alike: tuple[str, ...] = ()  # keys of trials that failed alike, for which nothing more is proposed
        self._sign = 1.0 if study.spec.objective.mode == "max" else -1.0
        self._metric = study.spec.objective.metric
        self._trials: dict[str, _Trial] = {}
        self._queue: deque[str] = deque()  # trials that wait for a start
        self._sequence = 0
        self._replay()

    def hear(self, event: Event) -> Decision | None:
        """Takes an event; returns the decision that it asks for, None where it asks for none."""
        match event:
            case WorkWanted():
                return self._next(event)
            case SegmentBegan():
                self._begin(event)
            case EpochEnded():
                return self._judge(event)
            case TrialEnded():
                self._end(event)
            case SegmentLost():
                self._lose(event)
            case PauseWanted():
                self._want(event.key, pause=True)
            case PromotionWanted():
                self._promote(event.key)
            case WidthWanted():
                self._want(event.key, width=event.width)
        return None

    @property
    def halted(self) -> bool:
        """Whether nothing more is proposed, by a fault of what the trials share."""
        return self.fault is not None or bool(self.alike)

    @property
    def running(self) -> list[str]:
        """Keys of the trials that have a segment now."""
        return [key for key, trial in self._trials.items() if trial.state == "running"]

    @property
    def unfinished(self) -> list[str]:
        """Keys of the trials that were asked and have not ended."""
        return list(self._trials)

    # the events

    def _next(self, event: WorkWanted) -> Decision:
        """The next segment: first what waits to go on, then a new trial."""
        if self.halted:
            return Finish(self.alike)
        if len(self.running) >= trials_at_once(event.room, event.up):
            return Wait()
        try:
            for key in promoted(self.stopper):
                self._promote(key)
        except UserError as error:
            self.fault = error
            return Finish()
        if self._queue:
            return self._start(self._trials[self._queue.popleft()])
        width = self.study.spec.resources.workers
        try:
            proposal = self.study.ask({record_name(self._sequence): {"event": "start", "segment": 1, "width": width}})
        except UserError as error:
            self.fault = error
            return Finish()
        if proposal is None:
            return self._next_without_proposals()
        trial = self._trials[proposal.key] = _Trial(proposal, width, 1, "running")
        self._sequence += 1
        return Start(proposal, trial.segment, width)

    def _next_without_proposals(self) -> Decision:
        """What is left where all trials were asked: paused trials that nobody promotes go on once nothing runs."""
        paused = [key for key, trial in self._trials.items() if trial.state == "paused"]
        if self.running or not paused:
            return Wait() if self.running else Finish()
        for key in paused:
            self._promote(key)
        return self._start(self._trials[self._queue.popleft()])

    def _start(self, trial: _Trial) -> Start:
        """Starts the next segment of a trial that had one before."""
        segment, width = trial.segment + 1, trial.next_width or trial.width
        self._record(trial, {"event": "start", "segment": segment, "width": width})
        self._new_segment(trial, segment, width)
        return Start(trial.proposal, segment, width)

    def _new_segment(self, trial: _Trial, segment: int, width: int) -> None:
        trial.segment, trial.width, trial.next_width, trial.state = segment, width, None, "running"

    def _begin(self, event: SegmentBegan) -> None:
        trial = self._trials[event.key]
        if not trial.began:
            trial.began = True
            self.study.begin(event.key, event.at)

    def _judge(self, event: EpochEnded) -> Decision:
        """Decides what follows an epoch. An epoch that was judged before keeps its decision, but a pause is over."""
        trial, epoch = self._trials[event.key], int(event.metrics["epoch"])
        if epoch in trial.decided:
            self.study.observe(event.key, event.metrics)  # a kill may have come between the record and the value
            return Stop(event.key) if trial.decided[epoch] == "stop" else Continue(event.key)
        score = self._sign * float(event.metrics[self._metric])
        decided = self._decide(trial, epoch, score)
        self._record(trial, {"event": "epoch", "epoch": epoch, "score": score, "decision": decided})
        self.study.observe(event.key, event.metrics)
        return self._carry_out(trial, epoch, decided)

    def _decide(self, trial: _Trial, epoch: int, score: float) -> Decided:
        """The stopper's verdict, then what was wanted of this trial. After its last epoch a trial ends by itself."""
        key = trial.proposal.key
        verdict: Verdict = "continue"
        try:
            if epoch >= trial.proposal.config.train.epochs:
                conclude(self.stopper, key, epoch, score)
                return "continue"
            if self.fault is None:
                verdict = judge(self.stopper, key, epoch, score)
        except UserError as error:  # trials that run go on to their end, without a judge
            self.fault = self.fault or error
        if verdict == "continue" and trial.pause:
            return "pause"
        if verdict == "continue" and trial.next_width is not None:
            return "resize"
        return verdict

    def _carry_out(self, trial: _Trial, epoch: int, decided: Decided) -> Decision:
        """Changes a trial's state as a decision says."""
        key = trial.proposal.key
        trial.decided[epoch] = decided
        if decided == "pause":
            trial.state, trial.pause = "paused", False
            return Pause(key)
        if decided == "resize":
            assert trial.next_width is not None
            self._new_segment(trial, trial.segment + 1, trial.next_width)
            return Resize(key, trial.segment, trial.width)
        return Stop(key) if decided == "stop" else Continue(key)

    def _end(self, event: TrialEnded) -> None:
        """Tells the study that a trial has ended; a trial that was told before, or paused, stays as it is."""
        trial = self._trials.get(event.key)
        if trial is None or trial.state == "paused":
            return
        self._record(trial, {"event": "end", "failed": event.error is not None})
        self.study.tell(event.key, event.metrics, event.error, event.details)
        del self._trials[event.key]
        if event.error is not None and (failed := self.study.failed_alike()):
            self.alike = self.alike or tuple(map(key_of, failed))

    def _want(self, key: str, pause: bool = False, width: int | None = None) -> None:
        """Notes what is to be done with a trial after its next epoch; of a trial that has ended nothing."""
        trial = self._trials.get(key)
        if trial is None:
            return
        trial.pause, trial.next_width = trial.pause or pause, trial.next_width if width is None else width
        if trial.next_width == trial.width:
            trial.next_width = None
        self._record(trial, {"event": "wanted", "pause": trial.pause, "width": trial.next_width})

    def _lose(self, event: SegmentLost) -> None:
        """Puts a trial at the head of the queue."""
        trial = self._trials[event.key]
        if trial.state == "running":
            self._record(trial, {"event": "lost", "why": event.why})
            trial.state = "waiting"
            self._queue.appendleft(event.key)

    def _promote(self, key: str) -> None:
        """Puts a paused trial into the queue; a trial that is not paused, or has ended, stays as it is."""
        trial = self._trials.get(key)
        if trial is not None and trial.state == "paused":
            self._record(trial, {"event": "promotion"})
            trial.state = "waiting"
            self._queue.append(key)

    # the journal

    def _record(self, trial: _Trial, content: Mapping[str, object]) -> None:
        self.study.record(trial.proposal.key, self._sequence, content)
        self._sequence += 1

    def _replay(self) -> None:
        """Takes up what the journal says: trials that have not ended, and all verdicts in their order.

        Runs that were written before there were records have curves only. Those of ended trials are told in the order
        of the trials; trials that go on tell theirs again. After a restart each trial that ran waits for a new segment.
        """
        records = self.study.records()
        recorded = {key for _, key, _ in records}
        for proposal in self.study.interrupted():
            self._trials[proposal.key] = _Trial(proposal, self.study.spec.resources.workers)
        for frozen in self.study.trials():
            if frozen.state.is_finished() and key_of(frozen) not in recorded:
                for epoch, value in sorted(frozen.intermediate_values.items()):
                    self._rejudge(key_of(frozen), epoch, self._sign * value, self.study.epochs_of(frozen))
        for sequence, key, content in records:
            self._sequence = sequence + 1
            self._take_up(key, content)
        for key, trial in self._trials.items():
            if trial.state != "paused":
                trial.state = "waiting"
                self._queue.append(key)

    def _take_up(self, key: str, content: Mapping[str, Any]) -> None:
        """Takes up a record. A trial that has ended since matters to the stopper alone."""
        trial, event = self._trials.get(key), content["event"]
        if event == "epoch":
            frozen = self.study.trial(key)
            self._rejudge(key, content["epoch"], content["score"], self.study.epochs_of(frozen))
            if trial is not None:
                self._carry_out(trial, content["epoch"], content["decision"])
        elif trial is not None and event == "start":
            self._new_segment(trial, content["segment"], content["width"])
        elif trial is not None and event == "wanted":
            trial.pause, trial.next_width = content["pause"], content["width"]
        elif trial is not None and event in ("lost", "promotion"):
            trial.state = "waiting"

    def _rejudge(self, key: str, epoch: int, score: float, epochs: int) -> None:
        """Tells the stopper an epoch that was judged before; its verdict is in the journal."""
        if epoch >= epochs:
            conclude(self.stopper, key, epoch, score)
        else:
            judge(self.stopper, key, epoch, score)
