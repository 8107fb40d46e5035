"""The bridge between Ray Tune and the core of a search.

It translates: the core decides, and Tune's state is thrown away.
"""

import functools
import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from trainables.config.errors import TrialFailure
from trainables.running.messages import EpochReport, Position, Work
from tuner.fleet.baseline import Baseline
from tuner.fleet.cluster import cluster
from tuner.fleet.single import tell_wait
from tuner.fleet.slots import SlotLost, Slots
from tuner.fleet.trial import SlotOrder, SlotTrial
from tuner.fleet.watch import Watch
from tuner.runs.hints import failed_alike, resume_hint
from tuner.runs.run import BASELINE, Run
from tuner.search import events
from tuner.search.allocation import concurrent_trials
from tuner.search.core import Core
from tuner.search.listener import Listener
from tuner.search.study import Proposal, Study

log = logging.getLogger(__name__)
ACTOR_RESTARTS = 3  # of the light trainable; its workers are not touched by its death
ACTOR_RETRIES = 2  # how often a trial is begun again after these restarts
HEAD = {"node:__internal_head__": 0.001}  # the driver's node, where trainables run: everybody talks with it


@dataclass
class _Segment:
    """A segment of a trial that Tune runs as one of its own trials.

    Attributes:
        proposal: the trial.
        first_step_at: time of its first step that was heard of.
        report: of its last epoch.
        paused: whether the core has paused the trial.
    """

    proposal: Proposal
    first_step_at: float | None = None
    report: EpochReport | None = None
    paused: bool = False


class Bridge:
    """Carries out what the core decides, by what Tune offers, and tells the core and the listeners what happens.

    Tune asks its searcher for trials and its scheduler whether one goes on; both only hand the question on to here.

    Args:
        search: the core.
        run: for the trials' folders.
        groups: the slots.
        room: how many trials may run at once.
        listeners: makes those who are told of what happens, once the untrained encoder has been scored.
        baseline: scores it, where that is still to be done.
    """

    def __init__(
        self,
        search: Core,
        run: Run,
        groups: Slots,
        room: int,
        listeners: Callable[[], Sequence[Listener]] = tuple,
        baseline: Baseline | None = None,
    ):
        self.core, self.run, self.groups, self.room = search, run, groups, room
        self.make_listeners, self.baseline = listeners, baseline
        self.listeners: Sequence[Listener] = () if baseline else listeners()
        self.segments: dict[str, _Segment] = {}  # by Ray's id
        self.session = uuid.uuid4().hex
        self.begun_again: Counter[str] = Counter()  # by trial: how often it had to be, at no fault of its own
        self.broken_off = ""  # why nothing more can be run
        self.halt_told = False
        self.say: Callable[[str], None] = lambda text: None  # to the terminal

    def next(self, trial_id: str) -> SlotOrder | events.Finish | None:
        """Returns what Tune starts under an id; None if nothing can be started now, `Finish` if nothing follows."""
        if self.broken_off:
            return events.Finish()
        if self.baseline is not None:
            return None if self.baseline.trial_id else self.baseline.start(trial_id, self.groups.name)
        up = len(self.groups.state().up)
        decision = self.core.hear(events.WorkWanted(up, self.room))
        self._tell_halt()
        if isinstance(decision, events.Start):
            return self._start(trial_id, decision, up > 0)
        return decision if isinstance(decision, events.Finish) else None

    def _start(self, trial_id: str, start: events.Start, has_workers: bool) -> SlotOrder:
        proposal = start.proposal
        self.segments[trial_id] = _Segment(proposal)
        if has_workers:
            self._begin(proposal.key)
        for listener in self.listeners:
            listener.trial_began(proposal)
        work = Work(proposal.key, proposal.config.plain(), str(self.run.trial_folder(proposal.key)))
        metric = self.core.study.spec.objective.metric
        return SlotOrder(self.groups.name, trial_id, work, proposal.config.train.epochs, metric)

    def hear(self, trial_id: str, report: EpochReport | None) -> str:
        """Tells the core of an epoch, unless it was the last one heard; returns what Tune's scheduler answers."""
        segment = self.segments.get(trial_id)
        if segment is None:  # the untrained encoder has no epoch to be heard
            return TrialScheduler.CONTINUE
        if report is None or (segment.report is not None and report.epoch <= segment.report.epoch):
            return TrialScheduler.CONTINUE
        segment.report = report
        segment.first_step_at = segment.first_step_at or report.metrics["time/first_step_at"]
        self._begin(report.key)
        decision = self.core.hear(events.EpochEnded(report.key, report.metrics))
        for listener in self.listeners:
            listener.epoch_heard(segment.proposal, report.metrics)
        segment.paused = isinstance(decision, events.Pause)
        return TrialScheduler.CONTINUE if isinstance(decision, events.Continue) else TrialScheduler.STOP

    def end(self, trial_id: str, result: Mapping[str, Any], actor_died: bool) -> None:
        """A segment is over: its trial has ended or was paused, or its slot or its actor is gone."""
        if self.baseline is not None and trial_id == self.baseline.trial_id:
            self.groups.release(trial_id)
            self.baseline.end(result.get("report"), result.get("error"))
            self._end_baseline(self.baseline, result.get("lost"), actor_died)
        segment = self.segments.get(trial_id)
        if segment is None:
            return
        self.groups.release(trial_id)
        key = segment.proposal.key
        if lost := result.get("lost"):  # no slot is left
            self.broken_off = lost
        elif actor_died:
            self._lose(key)
        else:
            self.hear(trial_id, result.get("report"))
            if not segment.paused:
                self._end(segment, result.get("error"))
        del self.segments[trial_id]

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
        for listener in self.listeners:
            listener.trial_ended(segment.proposal, error)
        self._tell_halt()

    def _tell_halt(self) -> None:
        """Says once that the core proposes nothing more, by a fault of what the trials share."""
        if self.core.halted and not self.halt_told:
            self.halt_told = True
            self.say("trials share a fault: no more trials are proposed, and those that run go on to their end")


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


class Screen(Listener, Protocol):
    """The terminal while a search runs, as a context."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...

    def say(self, note: str) -> None:
        """What is going on before the first trial."""

    def waits(self, why: str) -> None:
        """What the search waits for; empty where it goes on."""

    def ends(self, why: str) -> None:
        """Why no more trials are proposed."""

    def follow(self, positions: Mapping[str, Position]) -> None:
        """Where the trials are within their epochs."""


def run_search(
    run: Run, study: Study, screen: Callable[[int], Screen], boards: Sequence[Callable[[], Listener]] = ()
) -> None:
    """Runs what is left of a search.

    Args:
        run: of the search.
        study: of the run.
        screen: makes the terminal's view, from how many trials run at once.
        boards: make what else is told, once the untrained encoder has been scored.

    Raises:
        UserError: the cluster has no room for a trial, or the space is at fault.
        TrialFailure: the untrained encoder cannot be scored, or trials failed alike.
    """
    spec = study.spec
    left = spec.trials - sum(trial.state.is_finished() for trial in study.trials())
    if left <= 0:
        return
    study.pass_over_failures()
    with cluster(spec.address, run) as nodes:
        room = concurrent_trials(nodes, spec.resources, left)
        with (
            Slots(room, spec.resources, run.ray_folder, local=spec.address == "local") as groups,
            screen(room) as shown,
            Watch(groups.board, resume_hint(run)),
        ):
            groups.on_wait, groups.on_positions = functools.partial(tell_wait, run, shown.waits), shown.follow
            baseline = Baseline(run, spec)
            shown.say("starting workers" + ("" if baseline.known else ", then the untrained encoder is scored"))

            def listeners() -> list[Listener]:
                return [*(board() for board in boards), shown]

            bridge = Bridge(Core(study), run, groups, room, listeners, None if baseline.known else baseline)
            bridge.say = shown.ends
            tune_with(bridge)


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
        ),
    )
    tuner.fit()
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
