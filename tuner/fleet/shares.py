"""How searches share a cluster: max-min fairness over its resources. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tuner.search.allocation import Node


@dataclass(frozen=True)
class Demand:
    """What a search has of a cluster, and what it could use.

    Attributes:
        held: slots that hold resources.
        wanted: slots that the search could use now.
        workers: number of workers of a slot.
        per_worker: resources of one worker, which has to fit on one node.
    """

    held: int
    wanted: int
    workers: int
    per_worker: Mapping[str, float]

    @property
    def bundles(self) -> list[dict[str, float]]:
        """A bundle of resources for each worker of the wanted slots."""
        return [dict(self.per_worker) for _ in range(self.wanted * self.workers)]


def allowances(nodes: Iterable[Node], demands: Mapping[str, Demand]) -> dict[str, int]:
    """How many slots each search may hold.

    A search may hold all that it wants while no other one wants more than it holds. Otherwise it may hold its share,
    and one slot in any case.

    Args:
        nodes: all resources of each node that can be used.
        demands: of the searches, by name.
    """
    fair = shares(nodes, demands)
    waiting = {name for name, demand in demands.items() if demand.held < demand.wanted}
    return {name: max(1, fair[name] if waiting - {name} else demand.wanted) for name, demand in demands.items()}


def shares(nodes: Iterable[Node], demands: Mapping[str, Demand]) -> dict[str, int]:
    """The slots of each search by progressive filling: the search with the least gets the next slot, while one fits.

    A search has as much as its slots take of the resource of which they take most ("dominant resource fairness",
    Ghodsi et al. 2011). Between equals, a slot goes to the search that holds more, so that what is shared stays put.
    """
    free = [dict(node) for node in nodes]
    total = {
        kind: sum(node.get(kind, 0.0) for node in free) for demand in demands.values() for kind in demand.per_worker
    }
    granted = dict.fromkeys(demands, 0)
    unmet = {name for name, demand in demands.items() if demand.wanted > 0}

    def order(name: str) -> tuple[float, int, str]:
        demand = demands[name]
        taken = granted[name] * demand.workers
        parts = (taken * amount / total[kind] for kind, amount in demand.per_worker.items() if total[kind])
        return max(parts, default=0.0), -demand.held, name

    while unmet:
        name = min(unmet, key=order)
        if _place(free, demands[name]):
            granted[name] += 1
            if granted[name] < demands[name].wanted:
                continue
        unmet.remove(name)
    return granted


def _place(free: list[dict[str, float]], demand: Demand) -> bool:
    """Takes the resources of one slot out of `free`; returns False, and takes nothing, if the slot does not fit.

    Each worker goes to the fullest node that has room for it, which keeps room for larger workers.
    """
    taken, needs = list[dict[str, float]](), demand.per_worker.items()
    for _ in range(demand.workers):
        fitting = [node for node in free if all(node.get(kind, 0.0) >= need - 1e-9 for kind, need in needs)]
        if not fitting:
            for node in taken:
                _add(node, demand.per_worker, 1.0)
            return False
        node = min(fitting, key=lambda node: max((node[kind] / need for kind, need in needs), default=0))
        _add(node, demand.per_worker, -1.0)
        taken.append(node)
    return True


def _add(node: dict[str, float], per_worker: Mapping[str, float], sign: float) -> None:
    for kind, amount in per_worker.items():
        node[kind] = node.get(kind, 0.0) + sign * amount
