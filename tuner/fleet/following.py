"""How the number of slots follows the cluster. Pure: the decisions that `Slots` carries out."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from tuner.fleet.claims import SlotState
from tuner.plan.resources import Resources
from tuner.runs.run import BASELINE
from tuner.search.allocation import Node, slots_on


def number_of_slots(nodes: Iterable[Node], resources: Resources, useful: int, allowance: int | None) -> int:
    """How many slots there should be now.

    Args:
        nodes: all resources of each node that can be used.
        resources: of a trial; a slot has its smallest number of workers.
        useful: how many slots could be used, capped by the `max_slots` of now; that of `resources` is the launch's.
        allowance: how many it may hold while others share the cluster; None where nobody keeps accounts.
    """
    fitting = slots_on(nodes, resources)
    return min(fitting, useful if allowance is None else min(useful, allowance))


@dataclass(frozen=True)
class Changes:
    """Which slots begin and which ones end."""

    begin: tuple[int, ...] = ()
    retire: tuple[int, ...] = ()


def changes(
    count: int, kept: Collection[int], ending: Collection[int], up: Iterable[SlotState], starting: Collection[int] = ()
) -> Changes:
    """What has to change to have `count` slots.

    A new slot gets the lowest index that is free. The first to end are slots that wait for room, then those whose
    workers start, those that train no trial or one that is over, those that are lent to a trial beside its first one,
    and at last the only slot of a trial.

    Args:
        count: how many slots there should be.
        kept: indices of the slots that are not ending.
        ending: indices of the slots that are.
        up: the slots whose workers are up.
        starting: indices of the slots that have room, and whose workers start.
    """
    lacking = count - len(kept)
    if lacking >= 0:
        taken = {*kept, *ending}
        free = (slot for slot in range(len(taken) + lacking) if slot not in taken)
        return Changes(begin=tuple(slot for slot, _ in zip(free, range(lacking), strict=False)))
    trials = {state.slot: None if state.over else state.trial for state in up if state.slot in kept}
    first = {trial: slot for slot, trial in sorted(trials.items(), reverse=True) if trial is not None}

    def order(slot: int) -> tuple[int, int]:
        trial = trials.get(slot)
        if slot not in trials:
            return int(slot in starting), -slot
        return 2 if trial is None else 3 if first[trial] != slot else 4, -slot

    return Changes(retire=tuple(sorted(sorted(kept, key=order)[:-lacking])))


def what_lacks(lacks: Mapping[int, str], starting: Collection[int]) -> str:
    """Why no workers are up, where none are; empty while that is only because they are starting.

    Args:
        lacks: why the workers of each slot are not up, by slot; empty where they start for the first time.
        starting: the slots that have room, and whose workers start.
    """
    if any(not lacks.get(slot) for slot in starting):
        return ""
    return next((why for why in lacks.values() if why), "")


def slots_seen(up: Iterable[SlotState], running: Collection[str]) -> tuple[dict[str, int], dict[str, dict[str, int]]]:
    """What the core of a search is told of its slots: not of those that end, nor of those of the untrained encoder.

    A slot with a trial that runs no more is there, and free in a moment: its workers are about to leave that trial.

    Args:
        up: the slots whose workers are up.
        running: keys of the trials that run, as the core sees it.

    Returns:
        The number of slots by node, and what each trial holds of them, by key and node.
    """
    slots, held = Counter[str](), dict[str, Counter[str]]()
    for state in up:
        if state.retiring or state.trial == BASELINE:
            continue
        slots[state.node] += 1
        if state.trial is not None and state.trial in running and not state.over:
            held.setdefault(state.trial, Counter())[state.node] += 1
    return dict(slots), {key: dict(nodes) for key, nodes in held.items()}
