"""The core of a search: a state machine. Events come in, decisions go out.

It is a function of the journal and of the events.

It knows no Ray, no clock and no file but the study's. The fleet carries its decisions out on a cluster, and the
simulator in virtual time. Every event that changes something is noted in the journal together with its decision, under
a sequence number, before the decision is carried out; a resume builds the core again from these records.

A segment is a stretch of a trial on some workers. A pause, a promotion, a resize and a fault all end a segment, and
another one starts from the trial's newest checkpoint.
"""

from collections.abc import Mapping
from typing import Any

from trainables.config.errors import UserError
from tuner.search.allocation import trials_at_once
from tuner.search.events import (
    Allot,
    Continue,
    Decision,
    EndWanted,
    EpochEnded,
    Event,
    Finish,
    Pause,
    PauseWanted,
    PromotionWanted,
    SegmentBegan,
    SegmentLost,
    SlotsSeen,
    Start,
    Stop,
    StopNow,
    StopWanted,
    TrialEnded,
    Wait,
    WorkWanted,
)
from tuner.search.failures import STOPPED_EARLY
from tuner.search.lending import Borrower, counts_to, lend, slots_for
from tuner.search.records import record_name
from tuner.search.state import Decided, LiveTrial, State, widths_of
from tuner.search.stoppers.base import Stopper, Verdict, conclude, judge, promoted
from tuner.search.study import Study, key_of


class Core:
    """What runs, how long and how wide.

    Args:
        study: asks, tells, and keeps the journal.
        stopper: judges trials; by default the one that the spec names.
    """

    def __init__(self, study: Study, stopper: Stopper | None = None):
        self.study = study
        self.fault: UserError | None = None  # of the space or the stopper, for which nothing more is proposed
        self.alike: tuple[str, ...] = ()  # keys of trials that failed alike, for which nothing more is proposed
        self.ended = False  # whether the user has ended the search
        self._there = 0  # slots that were there when they were seen last
        self._metric = study.spec.objective.metric
        self._state = State(study, stopper)
        self._trials, self._queue = self._state.trials, self._state.queue
        self._half_stopped = [trial for trial in self._trials.values() if trial.stop]  # a crash came before their end

    def hear(self, event: Event) -> Decision | None:
        """Takes an event; returns the decision that it asks for, None where it asks for none."""
        match event:
            case WorkWanted():
                return self._next(event)
            case SlotsSeen():
                return self._lend(event)
            case SegmentBegan():
                self._begin(event)
            case EpochEnded():
                return self._judge(event)
            case TrialEnded():
                self._end(event)
            case SegmentLost():
                self._lose(event)
            case PauseWanted():
                self._pause(event.key)
            case PromotionWanted():
                self._promote(event.key)
            case StopWanted():
                return self._stop([event.key])
            case EndWanted():
                self.ended = True
                return self._stop(self.unfinished)
        return None

    @property
    def stopper(self) -> Stopper:
        """Who judges trials."""
        return self._state.stopper

    @property
    def halted(self) -> bool:
        """Whether nothing more is proposed, by a fault of what the trials share."""
        return self.fault is not None or bool(self.alike)

    @property
    def running(self) -> list[str]:
        """Keys of the trials that have a segment now."""
        return self._state.running

    @property
    def unfinished(self) -> list[str]:
        """Keys of the trials that were asked and have not ended."""
        return list(self._trials)

    @property
    def widths(self) -> dict[str, int]:
        """Workers of each trial that runs, as they were decided."""
        return {key: self._trials[key].width for key in self.running}

    @property
    def useful_slots(self) -> int:
        """How many slots the search could use now: one for each trial that could start, and what trials that run could.

        `max_slots` caps it, as it is now. Nobody else caps the slots by it.
        """
        startable, most = self._startable(), self._state.resources.max_slots
        choices = [self._choices(self._trials[key]) for key in self.running]
        slots = startable + slots_for(self._state.speeds, choices, self._there - startable)
        return slots if most is None else min(slots, most)

    def counts(self, key: str) -> tuple[int, ...]:
        """The numbers of slots that a trial that runs may hold now, ascending from 1. The last one was decided."""
        trial = self._trials[key]
        return counts_to(self._state.speeds, self._choices(trial), self._slots_of(trial))

    # what runs

    def _next(self, event: WorkWanted) -> Decision:
        """The next segment: first what waits to go on, then a new trial."""
        while self._half_stopped:
            if (trial := self._half_stopped.pop()).key in self._trials:  # a user may have stopped it since
                self._tell_stopped(trial)
        if self.halted or self.ended:
            return Finish(self.alike)
        most = self._state.resources.concurrent_trials
        room = event.room if most is None else min(event.room, most)
        if len(self.running) >= trials_at_once(room, event.up):
            return Wait()
        try:
            for key in promoted(self.stopper):
                self._promote(key)
        except UserError as error:
            self.fault = error
            return Finish()
        if self._queue:
            return self._start(self._trials[self._queue.popleft()])
        state = self._state
        try:
            proposal = self.study.ask(lambda config: {record_name(state.sequence): state.start_record(1, config)})
        except UserError as error:
            self.fault = error
            return Finish()
        if proposal is None:
            return self._next_without_proposals()
        trial = self._trials[proposal.key] = LiveTrial(proposal, state.resources.smallest, 1, "running")
        state.sequence += 1
        return Start(proposal, trial.segment, trial.width)

    def _next_without_proposals(self) -> Decision:
        """What is left where all trials were asked: paused trials that nobody promotes go on once nothing runs."""
        paused = [key for key, trial in self._trials.items() if trial.state == "paused"]
        if self.running or not paused:
            return Wait() if self.running else Finish()
        for key in paused:
            self._promote(key)
        return self._start(self._trials[self._queue.popleft()])

    def _start(self, trial: LiveTrial) -> Start:
        """Starts the next segment of a trial that had one before."""
        segment, width = trial.segment + 1, self._state.resources.smallest
        self._state.record(trial.key, self._state.start_record(segment, trial.proposal.config))
        trial.begin_segment(segment, width)
        trial.since = None
        return Start(trial.proposal, segment, width)

    def _startable(self) -> int:
        """How many trials could start now, had they slots, beside those that run."""
        if self.halted or self.ended:
            return 0
        ready, running = len(self._queue) + self.study.unasked, len(self.running)
        if not ready and not running:  # paused trials go on where nothing else is left
            ready = len(self._trials)
        most = self._state.resources.concurrent_trials
        return ready if most is None else max(0, min(ready, most - running))

    # how wide

    def _choices(self, trial: LiveTrial) -> list[int]:
        """The numbers of slots that a trial may have at all, ascending from 1."""
        resources = self._state.resources
        return [width // resources.smallest for width in widths_of(resources, trial.proposal.config)]

    def _slots_of(self, trial: LiveTrial) -> int:
        """How many slots a trial that runs was given last."""
        return max(1, trial.width // self._state.resources.smallest)

    def _lend(self, seen: SlotsSeen) -> Allot | None:
        """Divides the slots among the trials that run; None where nothing changes."""
        state = self._state
        self._there = sum(seen.slots.values())
        if not state.resources.is_elastic:
            return None
        trials = [self._trials[key] for key in self.running]
        borrowers = [
            Borrower(
                trial.key,
                self._choices(trial),
                self._slots_of(trial),
                trial.epochs_left,
                trial.proposal.config.evaluation.every_epochs,
                trial.since,
            )
            for trial in trials
        ]
        slots = lend(state.speeds, borrowers, seen, self._startable())
        widths = {key: count * state.resources.smallest for key, count in slots.items()}
        changed = {trial.key: widths[trial.key] for trial in trials if widths[trial.key] != trial.width}
        for key, width in changed.items():
            trial = self._trials[key]
            state.record(key, {"event": "resize", "segment": trial.segment + 1, "width": width, "slots": self._there})
            trial.begin_segment(trial.segment + 1, width)
        return Allot(changed) if changed else None

    # what happens to a trial

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
            self._state.speeds.note(event.key, event.metrics)
            return Stop(event.key) if trial.stop or trial.decided[epoch] == "stop" else Continue(event.key)
        score = self._state.sign * float(event.metrics[self._metric])
        decided = self._decide(trial, epoch, score)
        measured = self._state.speeds.measure(event.key, event.metrics) if self._state.resources.is_elastic else {}
        trial.since = event.metrics.get("time/measured_at")
        content = {"event": "epoch", "epoch": epoch, "score": score, "decision": decided, **measured}
        self._state.record(event.key, content)
        self.study.observe(event.key, event.metrics)
        self._state.carry_out(trial, epoch, decided)
        if decided == "pause":
            return Pause(event.key)
        return Stop(event.key) if decided == "stop" else Continue(event.key)

    def _decide(self, trial: LiveTrial, epoch: int, score: float) -> Decided:
        """The stopper's verdict, then what was wanted of this trial. After its last epoch a trial ends by itself."""
        verdict: Verdict = "continue"
        try:
            if epoch >= trial.proposal.config.train.epochs:
                conclude(self.stopper, trial.key, epoch, score)
                return "continue"
            if self.fault is None:
                verdict = judge(self.stopper, trial.key, epoch, score)
        except UserError as error:  # trials that run go on to their end, without a judge
            self.fault = self.fault or error
        if trial.stop:
            return "stop"
        return "pause" if verdict == "continue" and trial.pause else verdict

    def _end(self, event: TrialEnded) -> None:
        """Tells the study that a trial has ended; a trial that was told before, or paused, stays as it is."""
        trial = self._trials.get(event.key)
        if trial is None or trial.state == "paused":
            return
        if trial.stop and event.error is None and not event.metrics:
            self._tell_stopped(trial, event.details)
        else:
            self._tell(event.key, event.metrics, event.error, event.details)

    def _tell_stopped(self, trial: LiveTrial, details: Mapping[str, Any] | None = None) -> None:
        """Ends a trial that was stopped, with its last score in the journal."""
        curve = self.study.trial(trial.key).intermediate_values
        metrics = {"epoch": max(curve), self._metric: curve[max(curve)]} if curve else {}
        if trial.key in self._queue:
            self._queue.remove(trial.key)
        self._tell(trial.key, metrics, None if curve else STOPPED_EARLY, details or {})

    def _tell(self, key: str, metrics: Mapping[str, Any], error: str | None, details: Mapping[str, Any]) -> None:
        self._state.record(key, {"event": "end", "failed": error is not None})
        self.study.tell(key, metrics, error, details)
        self._state.speeds.forget(key)
        del self._trials[key]
        if error is not None and (failed := self.study.failed_alike()):
            self.alike = self.alike or tuple(map(key_of, failed))

    def _lose(self, event: SegmentLost) -> None:
        """Puts a trial at the head of the queue."""
        trial = self._trials[event.key]
        if trial.state == "running":
            self._state.record(event.key, {"event": "lost", "why": event.why})
            trial.state = "waiting"
            self._queue.appendleft(event.key)

    # what the user wants

    def _pause(self, key: str) -> None:
        """Pauses a trial after its next epoch, or at once where it waits; one that has ended stays as it is."""
        trial = self._trials.get(key)
        if trial is None or trial.state == "paused":
            return
        if trial.state == "waiting":
            self._state.record(key, {"event": "paused"})
            self._queue.remove(key)
            trial.state, trial.pause = "paused", False
        elif not trial.pause:
            self._state.record(key, {"event": "wanted", "pause": True})
            trial.pause = True

    def _promote(self, key: str) -> None:
        """Puts a paused trial into the queue; a trial that is not paused, or has ended, stays as it is."""
        trial = self._trials.get(key)
        if trial is not None and trial.state == "paused":
            self._state.record(key, {"event": "promotion"})
            trial.state = "waiting"
            self._queue.append(key)

    def _stop(self, keys: list[str]) -> StopNow | None:
        """Stops trials: those that do not run end here, the others are to be ended by whoever runs them."""
        stopped = [self._trials[key] for key in keys if key in self._trials]
        for trial in stopped:
            if not trial.stop:
                self._state.record(trial.key, {"event": "stop"})
                trial.stop = True
            if trial.state != "running":
                self._tell_stopped(trial)
        running = tuple(trial.key for trial in stopped if trial.state == "running")
        return StopNow(running) if running else None
