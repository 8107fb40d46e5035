"""A search in virtual time: the same core as a real one, with curves in place of workers."""

import heapq
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

from trainables.config.errors import UserError
from tuner.search import events
from tuner.search.core import Core
from tuner.search.study import Metrics, Study, key_of
from tuner.simulator.curves import Curves
from tuner.simulator.result import Simulation
from tuner.simulator.world import Node, Running, World


def simulate(search: Core, curves: Curves, slots: int = 1, nodes: Iterable[Node] = ()) -> Simulation:
    """Runs a search to its end in virtual time.

    Events at the same time come in the order in which they were set up; nodes join and leave first. A trial whose next
    epoch was not recorded ends there: stopped with its last score, or failed where it has none. A trial whose slots
    change goes on within its epoch: nothing is lost when a node leaves, and a resize takes no time. Where no slot is
    left for good, the simulation ends with the trials that wait.

    Args:
        search: a core over a new study without a journal.
        curves: what its trials show.
        slots: how many there are all the time, where no nodes are given.
        nodes: that have slots for some time.

    Raises:
        UserError: the space is at fault, or the curves lack the objective.
    """
    world, order = World(search, curves), itertools.count()
    changes: list[tuple[float, int, Node]] = []  # of the nodes: time, order, and the node that joins or leaves
    for node in [*nodes] or [Node("", slots)]:
        changes += [(at, next(order), node) for at in (node.joins, node.leaves) if at < math.inf]
    heapq.heapify(changes)
    while world.queue or changes:
        if changes and (not world.queue or changes[0][0] <= world.queue[0][0]):
            at, _, node = heapq.heappop(changes)
            if world.finished and not search.running:
                break
            world.now = at
            (world.join if at == node.joins else world.leave)(node)
        else:
            at, _, key, schedule = heapq.heappop(world.queue)
            trial = world.trials.get(key)
            if trial is None or trial.schedule != schedule:  # it has ended, or its slots have changed
                continue
            world.now = at
            _end_epoch(world, trial)
            world.settle()
        while (started := world.start()) is not None:
            world.find(started)
        world.see_slots()
    if search.fault is not None:
        raise search.fault
    return world.close()


def _end_epoch(world: World, trial: Running) -> None:
    """Has an epoch judged that is over now, and the trial go on or end."""
    decision = world.judge(trial)
    last = trial.epoch >= trial.proposal.config.train.epochs
    if isinstance(decision, events.Stop) or (isinstance(decision, events.Continue) and last):
        world.end(trial, None)
    elif not isinstance(decision, events.Pause):
        world.find(trial)


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
    world = World(search, curves, verbatim=True)
    world.join(Node("", _most_slots(records)))
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


def _replay_epoch(world: World, trial: Running, epoch: int) -> None:
    """Has the core judge an epoch that the recorded search judged here."""
    if epoch != trial.next_epoch:
        where = f"epoch {trial.next_epoch} comes next here"
        raise UserError(f"the recorded search judged epoch {epoch} of trial {trial.proposal.key}, and {where}")
    if world.find(trial):
        world.now = max(world.now, trial.at + world.cost(trial))
        world.judge(trial)


def _replay_start(world: World, key: str) -> None:
    """Has the core start the trial that the recorded search started here."""
    if key in world.core.running:  # that search had been interrupted, and went on
        _lose(world, world.trials[key], "its driver was restarted")
    trial = world.start()
    if trial is None or trial.proposal.key != key:
        what = "nothing" if trial is None else f"trial {trial.proposal.key}"
        raise UserError(f"the recorded search started trial {key} where this one starts {what}")


def _replay_wish(world: World, trial: Running, content: Metrics) -> None:
    """Tells the core what was wanted of a trial, or what befell it.

    A number of workers changes no score. So it does not matter where the core divides the slots in another way than the
    recorded search did, which knew on what nodes they were.
    """
    key, slot = trial.key, trial.slot
    match content["event"]:
        case "lost":
            _lose(world, trial, content["why"])
        case "promotion":
            world.hear(slot, events.PromotionWanted(key))
        case "paused" | "wanted":
            world.hear(slot, events.PauseWanted(key))
        case "stop":
            world.hear(slot, events.StopWanted(key))
        case "resize" if world.core.widths.get(key) != content["width"]:
            world.see_slots({"": content["slots"]})


def _lose(world: World, trial: Running, why: str) -> None:
    """Tells the core that the segment of a trial is lost, and frees its slots."""
    world.hear(trial.slot, events.SegmentLost(trial.key, why))
    world.release(trial)


def _most_slots(records: Sequence[tuple[int, str, Mapping[str, Any]]]) -> int:
    """How many slots a recorded search had at least: for the trials that ran at once, and for what was lent."""
    running: set[str] = set()
    most = 1
    for _, key, content in records:
        if content["event"] == "start":
            running.add(key)
        elif content["event"] in ("end", "lost") or content.get("decision") == "pause":
            running.discard(key)
        most = max(most, len(running), content.get("slots", 1))
    return most
