"""The bridge between Ray Tune and the core of a search.

It translates: the core decides, and Tune's state is thrown away.
"""

import contextlib
import logging
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray.tune.schedulers import TrialScheduler

from trainables.running import checkpoint_files
from trainables.running.messages import EpochReport, Work
from tuner.fleet.baseline import Baseline
from tuner.fleet.claims import State
from tuner.fleet.following import slots_seen
from tuner.fleet.nodes import first_line
from tuner.fleet.slots import Slots
from tuner.fleet.trial import SlotOrder
from tuner.runs.run import BASELINE, Run
from tuner.search import events
from tuner.search.core import Core
from tuner.search.listener import Listener
from tuner.search.study import Proposal, Study

log = logging.getLogger(__name__)
ACTOR_RESTARTS = 3  # of the light trainable; its workers are not touched by its death
PAUSE = "pause"  # who needs the checkpoint of a paused trial
ACTOR_RETRIES = 2  # how often a trial is begun again after these restarts


@dataclass
class _Segment:
    """A segment of a trial that Tune runs as one of its own trials.

    Attributes:
        proposal: the trial.
        first_step_at: time of its first step that was heard of.
        report: of its last epoch.
        paused: whether the core has paused the trial.
        stopped: whether the core has stopped the trial without waiting for an epoch.
    """

    proposal: Proposal
    first_step_at: float | None = None
    report: EpochReport | None = None
    paused: bool = False
    stopped: bool = False


class Bridge:
    """Carries out what the core decides, by what Tune offers, and tells the core and the listeners what happens.

    Tune asks its searcher for trials and its scheduler whether one goes on; both only hand the question on to here.
    Tune calls from the main thread, the slots from theirs: whoever comes to the core takes turns by a lock.

    Args:
        search: the core.
        run: for the trials' folders.
        groups: the slots.
        listeners: makes those who are told of what happens, once the untrained encoder has been scored.
        baseline: scores it, where that is still to be done.
    """

    def __init__(
        self,
        search: Core,
        run: Run,
        groups: Slots,
        listeners: Callable[[], Sequence[Listener]] = tuple,
        baseline: Baseline | None = None,
    ):
        self.core, self.run, self.groups = search, run, groups
        self.lock = threading.RLock()
        self.make_listeners, self.baseline = listeners, baseline
        self.listeners: Sequence[Listener] = () if baseline else listeners()
        self.segments: dict[str, _Segment] = {}  # by Ray's id
        self.session = uuid.uuid4().hex
        self.begun_again: Counter[str] = Counter()  # by trial: how often it had to be, at no fault of its own
        self.broken_off = ""  # why nothing more can be run
        self.failure: Exception | None = None  # what a call by Tune failed with; Tune blames the trial
        self.moves = 0
        self.halt_told = False
        self.say: Callable[[str], None] = lambda text: None  # to the terminal
        self.admits: Callable[[], bool] = lambda: True  # whether another trial may be started

    @property
    def study(self) -> Study:
        """The study of the search."""
        return self.core.study

    @property
    def running(self) -> list[str]:
        """Keys of the trials that have begun, and have not paused or ended."""
        return self.core.running

    @property
    def unfinished(self) -> list[str]:
        """Keys of the trials that were asked and have not ended."""
        return self.core.unfinished

    def turn(self) -> contextlib.AbstractContextManager[object]:
        """A context in which nobody else comes to the core."""
        return self.lock

    def next(self, trial_id: str) -> SlotOrder | events.Finish | None:
        """Returns what Tune starts under an id; None if nothing can be started now, `Finish` if nothing follows.

        Raises:
            Exception: what a call by Tune failed with before; Tune blamed the trial for it.
        """
        with self.lock:
            if self.failure:
                raise self.failure
            if self.broken_off:
                return events.Finish()
            if self.baseline is not None:
                if self.baseline.trial_id:
                    return None
                self.groups.acquire(trial_id, self.baseline.work)
                return self.baseline.start(trial_id, self.groups.name)
        if not self.admits():  # without the lock, for it may look through the whole run
            return None
        with self.lock:
            up = sum(not slot.retiring for slot in self.groups.state().slots)
            with self._ends_told():  # also of those that a driver was about to end when it was killed
                decision = self.core.hear(events.WorkWanted(up, self.groups.number))
            self._tell_halt()
            if isinstance(decision, events.Start):
                return self._start(trial_id, decision, up > 0)
            return decision if isinstance(decision, events.Finish) else None

    def look(self, state: State) -> dict[str, int]:
        """Tells the core which slots there are, has it lend them, and tells the slots how many could be used.

        Returns:
            The number of workers of each trial that runs.
        """
        with self.lock:
            slots, held = slots_seen(state.slots, self.core.running)
            self._carry_out(self.core.hear(events.SlotsSeen(time.time(), slots, held)))
            self.groups.useful = self.core.useful_slots
            return self.core.widths

    def wish(self, event: events.Event) -> None:
        """Tells the core what the user wants of the search while it runs, and the listeners of trials that it ends."""
        with self.lock:
            with self._ends_told():
                self._carry_out(self.core.hear(event))
            self.groups.look_soon()

    def _carry_out(self, decision: events.Decision | None) -> None:
        """Carries out a decision about trials that run, without waiting for an epoch."""
        if isinstance(decision, events.Allot):
            self.groups.resize({key: self.core.counts(key) for key in decision.widths})
        elif isinstance(decision, events.StopNow):
            for trial_id, segment in self.segments.items():
                if segment.proposal.key in decision.keys:
                    segment.stopped = True
                    self.groups.release(trial_id)  # so that Tune's trial ends, and `end` is called

    @contextlib.contextmanager
    def _ends_told(self) -> Iterator[None]:
        """Tells of trials that the core ends meanwhile without their workers: paused, or waiting for a start."""
        before = self.unfinished
        yield
        for key in sorted({*before} - {*self.unfinished}):
            checkpoint_files.unpin_all(self.run.trial_folder(key), PAUSE)
            self._tell_ended(self.study.proposal(self.study.trial(key)))

    def _start(self, trial_id: str, start: events.Start, has_workers: bool) -> SlotOrder:
        proposal = start.proposal
        self.segments[trial_id] = _Segment(proposal)
        self.moves += 1
        checkpoint_files.unpin_all(self.run.trial_folder(proposal.key), PAUSE)
        if has_workers:
            self._begin(proposal.key)
        self._tell(lambda listener: listener.trial_began(proposal))
        self.groups.look_soon()  # slots that are lent may have to be given back
        work = Work(proposal.key, proposal.config.plain(), str(self.run.trial_folder(proposal.key)))
        self.groups.acquire(trial_id, work)
        metric = self.core.study.spec.objective.metric
        return SlotOrder(self.groups.name, trial_id, proposal.key, proposal.config.train.epochs, metric)

    def hear(self, trial_id: str, report: EpochReport | None) -> str:
        """Tells the core of an epoch, unless it was the last one heard; returns what Tune's scheduler answers."""
        with self.lock, self._kept_for_next():
            segment = self.segments.get(trial_id)
            if segment is None:  # the untrained encoder has no epoch to be heard
                return TrialScheduler.CONTINUE
            return self._hear(segment, report)

    def _hear(self, segment: _Segment, report: EpochReport | None) -> str:
        if report is None or (segment.report is not None and report.epoch <= segment.report.epoch):
            return TrialScheduler.CONTINUE
        segment.report = report
        segment.first_step_at = segment.first_step_at or report.metrics["time/first_step_at"]
        self._begin(report.key)
        decision = self.core.hear(events.EpochEnded(report.key, report.metrics))
        self._tell(lambda listener: listener.epoch_heard(segment.proposal, report.metrics))
        segment.paused = isinstance(decision, events.Pause)
        if segment.paused:  # what it goes on from is kept, whatever the disc is short of
            folder = self.run.trial_folder(report.key)
            checkpoint_files.pin(folder / str(checkpoint_files.Name(int(report.metrics["step"]))), PAUSE)
        return TrialScheduler.CONTINUE if isinstance(decision, events.Continue) else TrialScheduler.STOP

    def end(self, trial_id: str, result: Mapping[str, Any], actor_died: bool) -> None:
        """A segment is over: its trial has ended or was paused, or its slot or its actor is gone."""
        with self.lock, self._kept_for_next():
            if self.baseline is not None and trial_id == self.baseline.trial_id:
                self.groups.release(trial_id)
                self.baseline.end(result.get("report"), result.get("error"))
                self._end_baseline(self.baseline, result.get("lost"), actor_died)
            segment = self.segments.pop(trial_id, None)
            if segment is None:
                return
            self.moves += 1
            self.groups.release(trial_id)
            self._end_segment(segment, result, actor_died)
            self.groups.look_soon()  # what it held may be lent

    def _end_segment(self, segment: _Segment, result: Mapping[str, Any], actor_died: bool) -> None:
        if segment.stopped:
            self._end(segment, None)
        elif lost := result.get("lost"):  # no slot is left
            self.broken_off = lost
        elif actor_died:
            self._lose(segment.proposal.key)
        else:
            self._hear(segment, result.get("report"))
            if not segment.paused:
                self._end(segment, result.get("error"))

    def _end_baseline(self, baseline: Baseline, lost: str | None, actor_died: bool) -> None:
        if lost:
            self.broken_off = lost
        elif baseline.failure:
            self.broken_off = str(baseline.failure)
        elif actor_died:
            self._count_lost(BASELINE)
        elif not baseline.known:
            self._count_lost(BASELINE, "it ended without a score")
        else:
            self.baseline, self.listeners = None, self.make_listeners()

    def _begin(self, key: str) -> None:
        """Notes that workers have a trial; one that waits for them is queued."""
        self.core.hear(events.SegmentBegan(key, time.time()))

    def _lose(self, key: str) -> None:
        """Has a trial begun again: it is at no fault, for its actor trains nothing."""
        self.core.hear(events.SegmentLost(key, "its Tune actor died"))
        self._count_lost(key)

    def _count_lost(self, key: str, why: str = "") -> None:
        """Counts how often a trial is begun again; a trial that is begun too often ends the search.

        Args:
            key: of the trial.
            why: it is begun again; empty where its Tune actor died.
        """
        self.begun_again[key] += 1
        log.warning("trial %s: %s", key, why or f"its Tune actor died {ACTOR_RESTARTS + 1} times")
        if self.begun_again[key] > ACTOR_RETRIES:
            died = f"the Tune actors of trial {key} died again and again; has the head node enough memory?"
            self.broken_off = f"trial {key}: {why}, again and again" if why else died

    def _end(self, segment: _Segment, error: str | None) -> None:
        report, key = segment.report, segment.proposal.key
        metrics = {} if report is None else report.metrics
        details = {
            "session": self.session,
            "slot": None if report is None else report.slot,
            "first_step_at": segment.first_step_at,
            "last_metric_at": metrics.get("time/measured_at"),
        }
        self.core.hear(events.TrialEnded(key, metrics, error, details))
        self._tell_ended(segment.proposal)
        self._tell_halt()

    def _tell_ended(self, proposal: Proposal) -> None:
        """Tells of a trial that has ended, with the error that the journal has of it."""
        error = self.study.trial(proposal.key).user_attrs["error"]
        self._tell(lambda listener: listener.trial_ended(proposal, error))

    def _tell(self, tell: Callable[[Listener], None]) -> None:
        """Tells the listeners. What one of them fails with is logged: a search does not end for what shows it."""
        for listener in self.listeners:
            try:
                tell(listener)
            except Exception as error:  # of any kind, such as of a figure, or of the disc that it is for
                log.warning("%s: %s", type(listener).__name__, first_line(error), exc_info=True)

    @contextlib.contextmanager
    def _kept_for_next(self) -> Iterator[None]:
        """Keeps an exception for `next` to raise: raised here, Tune takes it for a fault of the trial."""
        try:
            yield
        except Exception as error:
            self.failure = self.failure or error
            raise

    def _tell_halt(self) -> None:
        """Says once that the core proposes nothing more, by a fault of what the trials share."""
        if self.core.halted and not self.halt_told:
            self.halt_told = True
            self.say("trials share a fault: no more trials are proposed, and those that run go on to their end")
