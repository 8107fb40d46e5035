"""A search in virtual time: the same core as a real one, with curves in place of workers."""

import heapq
import itertools
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field

from trainables.config.errors import UserError
from tuner.search import events
from tuner.search.core import Core
from tuner.search.study import Metrics, Proposal, Study, key_of
from tuner.simulator.curves import Curves, NotRecorded, Recorded, RecordedFailure

UNKNOWN = "TrialFailure: not recorded: "  # a fault of the trial's own values: many such trials do not end a search


@dataclass(frozen=True)
class Happening:
    """What the core heard and what it decided.

    Attributes:
        at: virtual seconds since the search began.
        slot: number of the slot that the event concerns.
        event: the event that the core heard.
        decision: the decision of the core; None where the event asks for none.
    """

    at: float
    slot: int
    event: events.Event
    decision: events.Decision | None


@dataclass
class Simulation:
    """What a search would have done.

    Attributes:
        slots: how many trials could run at once.
        log: what happened, in order. Requests for work that were answered with Wait or Finish are left out.
        seconds: virtual time until the last event.
        busy: training seconds of each slot.
        refused: number of look-ups that the curves refused.
        ended: the reason for each trial that ended at a refusal or at a recorded failure, by key.
    """

    slots: int
    log: list[Happening] = field(default_factory=list)
    seconds: float = 0.0
    busy: list[float] = field(default_factory=list)
    refused: int = 0
    ended: dict[str, str] = field(default_factory=dict)

    @property
    def utilisation(self) -> float:
        """Share of the slots' time in which they trained."""
        return sum(self.busy) / (self.seconds * self.slots) if self.seconds else 0.0


@dataclass
class _Running:
    """A trial that was started.

    Attributes:
        proposal: the trial.
        slot: number of the slot that trains it, or that trained it before its pause.
        began: virtual time of its first start.
        at: virtual time of its last event.
        epoch: its last evaluated epoch.
        metrics: metrics of that epoch.
    """

    proposal: Proposal
    slot: int
    began: float
    at: float
    epoch: int = 0
    metrics: Metrics = field(default_factory=dict)

    @property
    def next_epoch(self) -> int:
        """The next epoch that is evaluated: each multiple of `every_epochs` is, and the last epoch."""
        config = self.proposal.config
        every = config.evaluation.every_epochs
        return min(self.epoch - self.epoch % every + every, config.train.epochs)


class _World:
    """What simulations and replays share: slots, the virtual clock, and the trials on them."""

    def __init__(self, search: Core, curves: Curves, slots: int):
        self.core, self.curves, self.now = search, curves, 0.0
        self.result = Simulation(slots, busy=[0.0] * slots)
        self.trials: dict[str, _Running] = {}
        self.free = list(range(slots))  # a heap: the lowest one is taken first
        self._metric = search.study.spec.objective.metric
        self._refused_before = curves.refused

    def hear(self, slot: int, event: events.Event) -> events.Decision | None:
        decision = self.core.hear(event)
        if not isinstance(decision, events.Wait | events.Finish):
            self.result.log.append(Happening(self.now, slot, event, decision))
        return decision

    def start(self) -> _Running | None:
        """Asks the core for work on a free slot; returns the trial that it starts, None where it starts none."""
        slots = self.result.slots
        decision = self.hear(self.free[0], events.WorkWanted(slots, slots))
        if not isinstance(decision, events.Start):
            return None
        proposal, slot = decision.proposal, heapq.heappop(self.free)
        trial = self.trials.setdefault(proposal.key, _Running(proposal, slot, self.now, self.now))
        trial.slot, trial.at = slot, self.now
        self.hear(slot, events.SegmentBegan(proposal.key, self.now))
        return trial

    def find(self, trial: _Running) -> Recorded | None:
        """The next evaluated epoch of a trial; None where none was recorded, and then the trial has ended."""
        try:
            recorded = self.curves.find(trial.proposal.values, trial.next_epoch)
        except RecordedFailure as failure:
            self.end(trial, str(failure), str(failure))
            return None
        except NotRecorded as refusal:
            # a trial past a recorded stop counts as stopped with its last score; one without any epoch has failed
            self.end(trial, None if trial.epoch else f"{UNKNOWN}{refusal}", str(refusal))
            return None
        if self._metric not in recorded.metrics:
            raise UserError(f"the curves have no '{self._metric}' at epoch {trial.next_epoch}, which is the objective")
        return recorded

    def judge(self, trial: _Running, recorded: Recorded) -> events.Decision | None:
        """Tells the core of an epoch that is over now, and carries its decision out as far as the trial's end."""
        trial.epoch, trial.metrics, trial.at = trial.next_epoch, recorded.metrics, self.now
        self.result.busy[trial.slot] += recorded.seconds
        decision = self.hear(trial.slot, events.EpochEnded(trial.proposal.key, recorded.metrics))
        if isinstance(decision, events.Pause):
            heapq.heappush(self.free, trial.slot)
        return decision

    def end(self, trial: _Running, error: str | None, reason: str = "") -> None:
        """Ends a trial and frees its slot. `reason` says what the curves lacked."""
        key = trial.proposal.key
        details: dict[str, object] = {"slot": trial.slot, "first_step_at": trial.began, "last_metric_at": trial.at}
        if reason:
            self.result.ended[key] = reason
        self.hear(trial.slot, events.TrialEnded(key, trial.metrics, error, details))
        heapq.heappush(self.free, trial.slot)
        del self.trials[key]

    def close(self) -> Simulation:
        self.result.seconds = self.now
        self.result.refused = self.curves.refused - self._refused_before
        return self.result


def simulate(search: Core, curves: Curves, slots: int = 1) -> Simulation:
    """Runs a search to its end in virtual time.

    A segment holds one slot, whatever its width. Events at the same time come in the order in which they were set up.
    A trial whose next epoch was not recorded ends there: stopped with its last score, or failed where it has none.

    Args:
        search: a core over a new study without a journal.
        curves: what its trials show.
        slots: how many trials run at once.

    Raises:
        UserError: the space is at fault, or the curves lack the objective.
    """
    world, order = _World(search, curves, slots), itertools.count()
    queue: list[tuple[float, int, str, Recorded]] = []

    def train(trial: _Running) -> None:
        if (recorded := world.find(trial)) is not None:
            heapq.heappush(queue, (world.now + recorded.seconds, next(order), trial.proposal.key, recorded))

    def fill() -> None:
        while world.free and (started := world.start()) is not None:
            train(started)

    fill()
    while queue:
        world.now, _, key, recorded = heapq.heappop(queue)
        trial = world.trials[key]
        decision = world.judge(trial, recorded)
        last = trial.epoch >= trial.proposal.config.train.epochs
        if isinstance(decision, events.Stop) or (isinstance(decision, events.Continue) and last):
            world.end(trial, None)
        elif not isinstance(decision, events.Pause):
            train(trial)
        fill()
    if search.fault is not None:
        raise search.fault
    return world.close()


def replay(search: Core, curves: Curves, recorded: Study) -> Simulation:
    """Tells a core the events of a search in the order in which that search heard them, by its sequence numbers.

    This repeats a search on several slots exactly, although the times of its trials depend on the machine.

    Args:
        search: a core over a new study without a journal.
        curves: those of the recorded search.
        recorded: its study.

    Raises:
        UserError: the study, or a part of it, was written before events had numbers, or the search asked for something
            else.
    """
    records = recorded.records()
    _require_all_noted(recorded, {key for _, key, _ in records})
    world = _World(search, curves, _most_at_once(records))
    for _, key, content in records:
        trial = world.trials.get(key)
        if content["event"] == "start":
            _replay_start(world, key)
        elif trial is None:  # it has ended at a refusal
            continue
        elif content["event"] == "epoch":
            _replay_epoch(world, trial, content["epoch"])
        elif content["event"] == "end":
            world.end(trial, recorded.trial(key).user_attrs.get("error"))
        else:
            _replay_wish(world, trial, content)
    return world.close()


def _require_all_noted(recorded: Study, noted: Set[str]) -> None:
    """Raises UserError where the order of events is not known of all trials.

    Args:
        recorded: the study of a run.
        noted: keys of the trials that have records.
    """
    why = "was written before the order of its events was noted; simulate it with --slots 1"
    lacking = [key for key in map(key_of, recorded.trials()) if key not in noted]
    if lacking and noted:
        raise UserError(f"a part of this run, such as trial {lacking[0]}, {why}")
    if not noted:
        raise UserError(f"this run {why}")


def _replay_epoch(world: _World, trial: _Running, epoch: int) -> None:
    """Has the core judge an epoch that the recorded search judged here."""
    if epoch != trial.next_epoch:
        where = f"epoch {trial.next_epoch} comes next here"
        raise UserError(f"the recorded search judged epoch {epoch} of trial {trial.proposal.key}, and {where}")
    if (recorded := world.find(trial)) is not None:
        world.now = max(world.now, trial.at + recorded.seconds)
        world.judge(trial, recorded)


def _replay_start(world: _World, key: str) -> None:
    """Has the core start the trial that the recorded search started here."""
    if key in world.core.running:  # that search had been interrupted, and went on
        slot = world.trials[key].slot
        world.hear(slot, events.SegmentLost(key, "its driver was restarted"))
        heapq.heappush(world.free, slot)
    trial = world.start()
    if trial is None or trial.proposal.key != key:
        what = "nothing" if trial is None else f"trial {trial.proposal.key}"
        raise UserError(f"the recorded search started trial {key} where this one starts {what}")


def _replay_wish(world: _World, trial: _Running, content: Metrics) -> None:
    """Tells the core what was wanted of a trial, or what befell it."""
    key, slot = trial.proposal.key, trial.slot
    if content["event"] == "lost":
        world.hear(slot, events.SegmentLost(key, content["why"]))
        heapq.heappush(world.free, slot)
    elif content["event"] == "promotion":
        world.hear(slot, events.PromotionWanted(key))
    elif content["event"] in ("paused", "wanted"):
        world.hear(slot, events.PauseWanted(key))
    elif content["event"] == "stop":
        world.hear(slot, events.StopWanted(key))


def _most_at_once(records: Sequence[tuple[int, str, Mapping[str, object]]]) -> int:
    """How many trials of a recorded search ran at once."""
    running: set[str] = set()
    most = 1
    for _, key, content in records:
        if content["event"] == "start":
            running.add(key)
        elif content["event"] in ("end", "lost") or content.get("decision") == "pause":
            running.discard(key)
        most = max(most, len(running))
    return most
