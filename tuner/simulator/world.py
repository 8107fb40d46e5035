"""A cluster in virtual time: nodes with slots, the trials on them, and a queue of the ends of epochs."""

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from trainables.config.errors import UserError
from tuner.search import events
from tuner.search.allocation import choose, fitting
from tuner.search.core import Core
from tuner.search.speeds import Speeds
from tuner.search.study import Metrics, Proposal
from tuner.simulator.curves import Curves, NotRecorded, Recorded, RecordedFailure
from tuner.simulator.result import Happening, Simulation, Started

UNKNOWN = "TrialFailure: not recorded: "  # a fault of the trial's own values: many such trials do not end a search
NO_SLOT = -1  # in place of the number of a slot


@dataclass(frozen=True)
class Node:
    """Slots of a node, for the time in which they are there.

    Attributes:
        name: of the node.
        slots: how many it has.
        joins: virtual time from which it has them.
        leaves: virtual time at which they are gone.
    """

    name: str
    slots: int
    joins: float = 0.0
    leaves: float = math.inf


@dataclass
class Running:
    """A trial that was started.

    Attributes:
        proposal: the trial.
        began: virtual time of its first start.
        at: virtual time of its last event.
        slot: number of the first slot that trains it, or that trained it last.
        slots: numbers of the slots that train it now.
        since: virtual time since which these train it.
        started: whether slots have taken its present segment.
        epoch: its last evaluated epoch.
        metrics: metrics of that epoch.
        recorded: the next evaluated epoch, which it trains; None before its curve was looked up.
        share: what was left of that epoch at `since`.
        schedule: number of its entry in the queue; older ones do not count.
    """

    proposal: Proposal
    began: float
    at: float
    slot: int = NO_SLOT
    slots: list[int] = field(default_factory=list)
    since: float = 0.0
    started: bool = False
    epoch: int = 0
    metrics: Metrics = field(default_factory=dict)
    recorded: Recorded | None = None
    share: float = 1.0
    schedule: int = 0

    @property
    def key(self) -> str:
        """Its name everywhere."""
        return self.proposal.key

    @property
    def next_epoch(self) -> int:
        """The next epoch that is evaluated: each multiple of `every_epochs` is, and the last epoch."""
        config = self.proposal.config
        every = config.evaluation.every_epochs
        return min(self.epoch - self.epoch % every + every, config.train.epochs)


class World:
    """What simulations and replays share: slots, the virtual clock, and the trials on them.

    The scores of an epoch are those that were recorded, whatever the number of workers. Its seconds are those that were
    recorded, too, on the number of workers that the record names (the smallest one where it names none). On another
    number they follow from the speeds of trials that were recorded on both, and where there are none, from the most
    shards that a worker has.

    Args:
        search: the core.
        curves: what the trials show.
        verbatim: whether the core hears times as they were recorded, for a replay. In an elastic search it otherwise
            hears the virtual ones, from which it learns which widths pay.
    """

    def __init__(self, search: Core, curves: Curves, verbatim: bool = False):
        spec = search.study.spec
        self.core, self.curves, self.now = search, curves, 0.0
        self.smallest, self.is_elastic = spec.resources.smallest, spec.resources.is_elastic
        self.result = Simulation()
        self.trials: dict[str, Running] = {}
        self.queue: list[tuple[float, int, str, int]] = []  # ends of epochs: time, order, key, the trial's schedule
        self.up: dict[int, str] = {}  # node of each slot that is there
        self.finished = False  # whether the core starts nothing more
        self._free: set[int] = set()
        self._order = itertools.count()
        self._metric = spec.objective.metric
        self._tells_times = self.is_elastic and not verbatim
        self._refused_before = curves.refused
        self._speeds = _recorded_speeds(curves, self.smallest)
        self._counted_at = 0.0  # until when `available` is summed

    # the core

    def hear(self, slot: int, event: events.Event) -> events.Decision | None:
        """Tells the core an event, and notes it with its decision."""
        decision = self.core.hear(event)
        seen_in_vain = isinstance(event, events.SlotsSeen) and decision is None
        if not (seen_in_vain or isinstance(decision, events.Wait | events.Finish)):
            noted: events.Decision | Started | None = decision
            if isinstance(decision, events.Start):
                noted = Started(decision.proposal.key, decision.segment, decision.width)
            self.result.log.append(Happening(self.now, slot, event, noted))
        return decision

    def start(self) -> Running | None:
        """Asks the core for work; returns the trial that it starts, None where it starts none."""
        up = len(self.up)
        if not up:
            return None
        decision = self.hear(min(self._free, default=NO_SLOT), events.WorkWanted(up, up))
        self.finished = isinstance(decision, events.Finish)
        if not isinstance(decision, events.Start):
            return None
        proposal = decision.proposal
        trial = self.trials.setdefault(proposal.key, Running(proposal, self.now, self.now))
        trial.at, trial.started, trial.recorded = self.now, False, None
        self.settle()
        return trial

    def see_slots(self, slots: Mapping[str, int] | None = None) -> None:
        """Tells the core of the slots where that may change something, and carries out what it decides.

        Args:
            slots: how many there are, by node, where they are others than those that are up.
        """
        if not self.is_elastic:
            return
        held = {key: Counter(self.up[slot] for slot in self.trials[key].slots) for key in self.core.running}
        if self.hear(NO_SLOT, events.SlotsSeen(self.now, slots or Counter(self.up.values()), held)) is not None:
            self.settle()

    # slots

    def join(self, node: Node) -> None:
        """Brings the slots of a node."""
        self._count_slots()
        first = len(self.result.busy)
        for slot in range(first, first + node.slots):
            self.up[slot] = node.name
            self._free.add(slot)
        self.result.busy += [0.0] * node.slots
        self.result.slots = max(self.result.slots, len(self.up))
        self.settle()

    def leave(self, node: Node) -> None:
        """Takes the slots of a node away; its trials go on with what else they have, or wait for slots."""
        self._count_slots()
        gone = {slot for slot, name in self.up.items() if name == node.name}
        for trial in self.trials.values():
            if gone & set(trial.slots):
                self._regroup(trial, [slot for slot in trial.slots if slot not in gone])
        self._free -= gone
        for slot in gone:
            del self.up[slot]
        self.settle()

    def settle(self) -> None:
        """Gives each trial as many slots as the core has decided: first what is too much is free, then the rest."""
        if not self.is_elastic and not self._free:
            return
        trials = [(self.trials[key], self.core.counts(key)) for key in self.core.running]
        for trial, counts in trials:
            if len(trial.slots) > counts[-1]:
                self._regroup(trial, choose({}, {slot: self.up[slot] for slot in trial.slots}, counts[-1]))
        for trial, counts in sorted(trials, key=lambda pair: bool(pair[0].slots)):  # those without any slot first
            held = len(trial.slots)
            count = fitting(counts, held + len(self._free))
            if held < count:
                free = {slot: self.up[slot] for slot in sorted(self._free)}
                self._regroup(trial, choose(free, {slot: self.up[slot] for slot in trial.slots}, count))

    def release(self, trial: Running) -> None:
        """Frees the slots of a trial that is not trained any more."""
        self._regroup(trial, [])
        trial.recorded = None

    def _regroup(self, trial: Running, slots: list[int]) -> None:
        """Has other slots train a trial, from where it is in its epoch."""
        if trial.recorded is not None and trial.slots:
            spent = min(self.now - trial.since, trial.share * self.cost(trial))
            for slot in trial.slots:
                self.result.busy[slot] += spent
            trial.share -= spent / self.cost(trial) if spent else 0.0
        self._free = (self._free | set(trial.slots)) - set(slots)
        trial.slots, trial.slot = slots, slots[0] if slots else trial.slot
        if slots and not trial.started:
            trial.started = True
            self.hear(trial.slot, events.SegmentBegan(trial.key, self.now))
        self._schedule(trial)

    # epochs

    def find(self, trial: Running) -> bool:
        """Looks up the next evaluated epoch of a trial; returns False where none was recorded: then it has ended."""
        try:
            recorded = self.curves.find(trial.proposal.values, trial.next_epoch)
        except RecordedFailure as failure:
            self.end(trial, str(failure), str(failure))
            return False
        except NotRecorded as refusal:
            # a trial past a recorded stop counts as stopped with its last score; one without any epoch has failed
            self.end(trial, None if trial.epoch else f"{UNKNOWN}{refusal}", str(refusal))
            return False
        if self._metric not in recorded.metrics:
            raise UserError(f"the curves have no '{self._metric}' at epoch {trial.next_epoch}, which is the objective")
        trial.recorded, trial.share = recorded, 1.0
        self._schedule(trial)
        return True

    def cost(self, trial: Running) -> float:
        """The seconds that the epoch which a trial trains takes on the slots that it has."""
        assert trial.recorded is not None
        workers = int(trial.recorded.metrics.get("time/workers") or self.smallest)
        now = max(1, len(trial.slots)) * self.smallest
        if workers == now:
            return trial.recorded.seconds
        return trial.recorded.seconds * self._speed_up(trial, workers) / self._speed_up(trial, now)

    def _speed_up(self, trial: Running, workers: int) -> float:
        """How much faster a number of workers is than the smallest one."""
        known = None if workers % self.smallest else self._speeds.known(workers // self.smallest)
        shards = trial.proposal.config.train.num_shards
        return known or math.ceil(shards / self.smallest) / math.ceil(shards / workers)

    def _schedule(self, trial: Running) -> None:
        """Puts the end of an epoch into the queue."""
        trial.schedule += 1
        trial.since = self.now
        if trial.recorded is not None and trial.slots:
            end = self.now + trial.share * self.cost(trial)
            heapq.heappush(self.queue, (end, next(self._order), trial.key, trial.schedule))

    def judge(self, trial: Running) -> events.Decision | None:
        """Tells the core of an epoch that is over now, and carries its decision out as far as the trial's end."""
        assert trial.recorded is not None
        for slot in trial.slots:
            self.result.busy[slot] += trial.share * self.cost(trial)
        trial.epoch, trial.metrics = trial.next_epoch, self._shown(trial, trial.recorded)
        trial.at, trial.recorded = self.now, None
        decision = self.hear(trial.slot, events.EpochEnded(trial.key, trial.metrics))
        if isinstance(decision, events.Pause):
            self.release(trial)
        return decision

    def _shown(self, trial: Running, recorded: Recorded) -> Metrics:
        """What the core hears of an epoch."""
        seconds = self.cost(trial)
        if not self._tells_times or not seconds:
            return recorded.metrics
        images = recorded.metrics.get("time/images_per_second", 1.0) * recorded.seconds
        times = {"time/first_step_at": trial.began, "time/measured_at": self.now}
        workers = len(trial.slots) * self.smallest
        return {**recorded.metrics, **times, "time/workers": workers, "time/images_per_second": images / seconds}

    def end(self, trial: Running, error: str | None, reason: str = "") -> None:
        """Ends a trial and frees its slots. `reason` says what the curves lacked."""
        details: dict[str, object] = {"slot": trial.slot, "first_step_at": trial.began, "last_metric_at": trial.at}
        if reason:
            self.result.ended[trial.key] = reason
        self.hear(trial.slot, events.TrialEnded(trial.key, trial.metrics, error, details))
        self.release(trial)
        del self.trials[trial.key]

    def _count_slots(self) -> None:
        """Sums up the time of the slots that have been there until now."""
        self.result.available += len(self.up) * (self.now - self._counted_at)
        self._counted_at = self.now

    def close(self) -> Simulation:
        """Returns the result."""
        self._count_slots()
        self.result.seconds = self.now
        self.result.refused = self.curves.refused - self._refused_before
        return self.result


def _recorded_speeds(curves: Curves, smallest: int) -> Speeds:
    """The speeds of recorded trials by their number of workers."""
    speeds = Speeds(smallest)
    for number, point in enumerate(curves.points):
        for _, recorded in sorted(point.epochs.items()):
            speeds.measure(str(number), recorded.metrics)
    return speeds
