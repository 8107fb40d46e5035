"""What a cluster has room for, and which trial gets how much of it. All of it is pure.

Work that waits comes first: each trial that could start gets a slot before another one is widened. Slots that nobody
waits for are lent to trials that run. A loan ends when a trial waits, when slots are gone, when its width turns out not
to pay (`speeds`), or when another division of the loans would end the search much earlier.
"""

import bisect
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from trainables.config.errors import UserError
from tuner.plan.resources import Resources

Node = Mapping[str, float]
LITTLE = 5.0  # seconds left of a trial that is not widened any more: a resize takes up to half a second
MUCH_EARLIER = 0.7  # share of the time to the end of all trials at which loans are divided anew


@dataclass(frozen=True)
class Running:
    """A trial that runs, as the allocation sees it.

    Attributes:
        key: of the trial.
        slots: how many it was given last; at least 1.
        gains: the numbers of slots that it may have, ascending from 1, each with its speed-up.
        left: seconds that it would still take on one slot.
        held: how many slots it holds, by node.
    """

    key: str
    slots: int = 1
    gains: Mapping[int, float] = field(default_factory=lambda: {1: 1.0})
    left: float = 0.0
    held: Mapping[str, int] = field(default_factory=dict)

    def seconds(self, slots: int) -> float:
        """Returns the seconds that it would still take on a number of slots."""
        return self.left / max(gain for number, gain in self.gains.items() if number <= slots)

    @property
    def has_little_left(self) -> bool:
        return self.seconds(self.slots) < LITTLE

    def below(self, slots: int) -> int:
        """Returns the largest number of slots below another one that it may have."""
        return max(number for number in self.gains if number < slots)

    def above(self, slots: int) -> int | None:
        """Returns the next larger number of slots that it may have; None where there is none."""
        return min((number for number in self.gains if number > slots), default=None)


def allot(slots: Mapping[str, int], trials: Sequence[Running], waiting: int) -> dict[str, int]:
    """Returns how many slots each running trial is to have, by its key.

    A trial has 0 only where there are fewer slots than trials; those that hold slots come first then.

    Args:
        slots: how many may be used, by node.
        trials: those that run, in the order in which they were asked.
        waiting: how many more could start now.
    """
    total = sum(slots.values())
    if total <= len(trials):
        first = sorted(range(len(trials)), key=lambda index: (not any(trials[index].held.values()), index))[:total]
        return {trial.key: int(index in first) for index, trial in enumerate(trials)}
    room = max(total - waiting, len(trials))
    idle = Counter(slots)
    for trial in trials:
        idle.subtract(trial.held)
    kept = {
        trial.key: trial.slots if trial.has_little_left else max(n for n in trial.gains if n <= trial.slots)
        for trial in trials
    }
    anew = {trial.key: 1 for trial in trials}
    for result in (kept, anew):
        _shrink(result, trials, room)
        _widen(result, trials, room, idle)
    ending = [trial.key for trial in trials if trial.seconds(kept[trial.key]) < LITTLE]
    if any(anew[key] != kept[key] for key in ending):  # what they hold is free in a moment
        return kept
    return anew if _ends(anew, trials) < MUCH_EARLIER * _ends(kept, trials) else kept


def _ends(result: Mapping[str, int], trials: Sequence[Running]) -> float:
    """Returns the seconds until all trials have ended."""
    return max((trial.seconds(result[trial.key]) for trial in trials), default=0.0)


def _shrink(result: dict[str, int], trials: Sequence[Running], room: int) -> None:
    """Takes slots back until all fit: from the trial that ends first, and last from those with little left."""
    while sum(result.values()) > room:
        wide = [trial for trial in trials if result[trial.key] > 1]
        trial = min(wide, key=lambda t: (t.has_little_left, t.seconds(result[t.key]), t.key))
        result[trial.key] = trial.below(result[trial.key])


def _widen(result: dict[str, int], trials: Sequence[Running], room: int, idle: Mapping[str, int]) -> None:
    """Lends what is left, step by step: to the trial that would end last, of equal ones to that with idle neighbours.

    Args:
        result: number of slots by trial; it is changed.
        trials: that run.
        room: how many slots there are for them.
        idle: slots that no trial holds, by node.
    """
    while True:
        spare = room - sum(result.values())
        long = [trial for trial in trials if trial.seconds(result[trial.key]) >= LITTLE]
        steps = [(trial, trial.above(result[trial.key])) for trial in long]
        able = [(t, wider) for t, wider in steps if wider is not None and wider - result[t.key] <= spare]
        if not able:
            return
        neighbours = {t.key: sum(idle.get(node, 0) for node, held in t.held.items() if held) for t, _ in able}
        trial, wider = min(able, key=lambda step: (-step[0].seconds(result[step[0].key]), -neighbours[step[0].key]))
        result[trial.key] = wider


def fitting(counts: Iterable[int], slots: int) -> int:
    """Returns the largest of some numbers of slots that so many slots are enough for; 0 where they are too few."""
    return max((count for count in counts if count <= slots), default=0)


def choose(free: Mapping[int, str], kept: Mapping[int, str], count: int) -> list[int]:
    """Returns the slots that a trial takes, its own first: on as few nodes as possible.

    Of more slots than `count` it keeps those on the fewest nodes. It may get fewer than `count`, where fewer are free.

    Args:
        free: node of each slot that no trial holds.
        kept: node of each slot that the trial holds.
        count: how many it is to have.
    """
    if count <= len(kept):
        return _on_fewest_nodes(kept, count)
    here = set(kept.values())
    near = _on_fewest_nodes({slot: node for slot, node in free.items() if node in here}, count - len(kept))
    far = {slot: node for slot, node in free.items() if node not in here}
    return [*kept, *near, *_on_fewest_nodes(far, count - len(kept) - len(near))]


def _on_fewest_nodes(slots: Mapping[int, str], count: int) -> list[int]:
    """Returns `count` slots, or all that there are.

    The fullest nodes give theirs first. The rest comes from the node with the fewest slots that are enough for it.
    """
    by_node: dict[str, list[int]] = {}
    for slot, node in slots.items():
        by_node.setdefault(node, []).append(slot)
    chosen: list[int] = []
    while by_node and len(chosen) < count:
        rest = count - len(chosen)
        whole = [node for node in by_node if len(by_node[node]) >= rest]
        node = (
            min(whole, key=lambda name: len(by_node[name]))
            if whole
            else max(by_node, key=lambda name: len(by_node[name]))
        )
        chosen += by_node.pop(node)[:rest]
    return chosen


def demand_of(wanted: Resources) -> dict[str, float]:
    """Resources of one worker, by Ray's names."""
    demand = {"CPU": wanted.cpus_per_worker, "GPU": wanted.gpus_per_worker, **wanted.custom}
    return {kind: amount for kind, amount in demand.items() if amount > 0}


def places_on(nodes: Iterable[Node], wanted: Resources) -> int:
    """How many workers fit: each has to fit on one node."""
    demand = demand_of(wanted)
    return sum(min(int(node.get(kind, 0) / amount + 1e-9) for kind, amount in demand.items()) for node in nodes)


def slots_on(nodes: Iterable[Node], wanted: Resources) -> int:
    """How many slots fit: as many as there are workers for. A slot may span nodes."""
    return places_on(nodes, wanted) // wanted.smallest


def concurrent_trials(nodes: Sequence[Node], wanted: Resources, trials: int) -> int:
    """How many trials run at once: as many as fit and as there are trials, and no more than asked for.

    Args:
        nodes: resources of each, by Ray's names; a worker has to fit on one node, a trial may span several.
        wanted: of one trial.
        trials: how many are still to run.

    Raises:
        UserError: not even one trial fits.
    """
    slots = slots_on(nodes, wanted)
    if slots < 1:
        raise UserError(what_fits(nodes, wanted))
    return min(slots, trials, wanted.concurrent_trials or trials, wanted.max_slots or trials)


def what_fits(nodes: Sequence[Node], wanted: Resources, has: str = "the cluster has") -> str:
    """Words that a trial does not fit: what it asks for, what is there, and what would fit.

    Args:
        nodes: resources of each, by Ray's names: all of them, or the free ones.
        wanted: of one trial, at its smallest number of workers.
        has: what the nodes are called.
    """
    demand, places, workers = demand_of(wanted), places_on(nodes, wanted), wanted.smallest
    needs = _amounts({kind: amount * workers for kind, amount in demand.items()})
    there = _amounts({kind: sum(node.get(kind, 0) for node in nodes) for kind in demand})
    if len(nodes) > 1:
        largest = _amounts({kind: max(node.get(kind, 0) for node in nodes) for kind in demand})
        there += f" on {len(nodes)} nodes with room for {places} workers (at most {largest} on one node)"
    fits = " or ".join(_fitting(nodes, wanted, places))
    worker = f"a node with {_amounts(demand)} for {'each' if workers > 1 else 'the'} worker"
    told = f"resources.workers = {wanted.workers}: a trial needs {needs}, {has} {there}"
    return f"{told}; would fit: {fits or worker}"


def _amounts(amounts: Mapping[str, float]) -> str:
    return ", ".join(f"{amount:g} {kind}" for kind, amount in amounts.items())


def _fitting(nodes: Sequence[Node], wanted: Resources, places: int) -> list[str]:
    """Returns settings of one key each with which a trial would fit."""
    fitting = [f"resources.workers={places}"] if places else []
    fewer = bisect.bisect_left(
        range(1, wanted.cpus_per_worker),
        True,
        key=lambda cpus: places_on(nodes, wanted.model_copy(update={"cpus_per_worker": cpus})) < wanted.smallest,
    )
    fitting += [f"resources.cpus_per_worker={fewer}"] if fewer else []
    without = places_on(nodes, wanted.model_copy(update={"gpus_per_worker": 0})) >= wanted.smallest
    return [*fitting, "resources.gpus_per_worker=0"] if without and wanted.gpus_per_worker else fitting


def trials_at_once(room: int, up: int) -> int:
    """How many trials run at once: as many as have workers; one in any case, which waits where no workers are up.

    Args:
        room: the most that fit and that were asked for.
        up: slots whose workers are up.
    """
    return max(1, min(room, up))


def local_cpus() -> int:
    """CPUs that this process may use, and so a local Ray."""
    return len(os.sched_getaffinity(0))
