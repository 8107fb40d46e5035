"""How searches share a cluster: max-min fairness over its resources. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tuner.search.allocation import Node


@dataclass(frozen=True)
class Claim:
    """What a search has of a cluster, and what it could use.

    Attributes:
        held: slots that hold resources.
        wanted: slots that the search could use now.
        workers: number of workers of a slot.
        demand: resources of one worker, which has to fit on one node.
    """

    held: int
    wanted: int
    workers: int
    demand: Mapping[str, float]

    @property
    def bundles(self) -> list[dict[str, float]]:
        """A bundle of resources for each worker of the wanted slots."""
        return [dict(self.demand) for _ in range(self.wanted * self.workers)]


def allowances(nodes: Iterable[Node], claims: Mapping[str, Claim]) -> dict[str, int]:
    """How many slots each search may hold.

    A search may hold all that it wants while no other one wants more than it holds. Otherwise it may hold its share,
    and one slot in any case.

    Args:
        nodes: all resources of each node that can be used.
        claims: of the searches, by name.
    """
    fair = shares(nodes, claims)
    waiting = {name for name, claim in claims.items() if claim.held < claim.wanted}
    return {name: max(1, fair[name] if waiting - {name} else claim.wanted) for name, claim in claims.items()}


def shares(nodes: Iterable[Node], claims: Mapping[str, Claim]) -> dict[str, int]:
    """The slots of each search by progressive filling: the search with the least gets the next slot, while one fits.

    A search has as much as its slots take of the resource of which they take most ("dominant resource fairness",
    Ghodsi et al. 2011). Between equals, a slot goes to the search that holds more, so that what is shared stays put.
    """
    free = [dict(node) for node in nodes]
    total = {kind: sum(node.get(kind, 0.0) for node in free) for claim in claims.values() for kind in claim.demand}
    granted = dict.fromkeys(claims, 0)
    open_claims = {name for name, claim in claims.items() if claim.wanted > 0}

    def order(name: str) -> tuple[float, int, str]:
        claim = claims[name]
        taken = granted[name] * claim.workers
        has = max((taken * amount / total[kind] for kind, amount in claim.demand.items() if total[kind]), default=0.0)
        return has, -claim.held, name

    while open_claims:
        name = min(open_claims, key=order)
        if _place(free, claims[name]):
            granted[name] += 1
            if granted[name] < claims[name].wanted:
                continue
        open_claims.remove(name)
    return granted


def _place(free: list[dict[str, float]], claim: Claim) -> bool:
    """Takes the resources of one slot out of `free`; returns False, and takes nothing, if the slot does not fit.

    Each worker goes to the fullest node that has room for it, which keeps room for larger workers.
    """
    taken: list[dict[str, float]] = []
    for _ in range(claim.workers):
        fitting = [node for node in free if all(node.get(k, 0.0) >= need - 1e-9 for k, need in claim.demand.items())]
        if not fitting:
            for node in taken:
                _add(node, claim.demand, 1.0)
            return False
        node = min(fitting, key=lambda node: max((node[kind] / need for kind, need in claim.demand.items()), default=0))
        _add(node, claim.demand, -1.0)
        taken.append(node)
    return True


def _add(node: dict[str, float], demand: Mapping[str, float], sign: float) -> None:
    for kind, amount in demand.items():
        node[kind] = node.get(kind, 0.0) + sign * amount
