"""What a cluster has room for: how many workers fit, and how many trials run at once."""

import os
from collections.abc import Iterable, Mapping, Sequence

from trainables.config.errors import UserError
from tuner.plan.resources import Resources

Node = Mapping[str, float]


def demand_of(wanted: Resources) -> dict[str, float]:
    """Resources of one worker, by Ray's names."""
    demand = {"CPU": wanted.cpus_per_worker, "GPU": wanted.gpus_per_worker}
    return {kind: amount for kind, amount in demand.items() if amount > 0}


def places_on(nodes: Iterable[Node], wanted: Resources) -> int:
    """How many workers fit: each has to fit on one node."""
    demand = demand_of(wanted)
    return sum(min(int(node.get(kind, 0) / amount + 1e-9) for kind, amount in demand.items()) for node in nodes)


def concurrent_trials(nodes: Sequence[Node], wanted: Resources, trials: int) -> int:
    """The number of slots: as many as fit and as there are trials, and no more than asked for.

    Args:
        nodes: resources of each, by Ray's names; a worker has to fit on one node, a trial may span several.
        wanted: of one trial.
        trials: how many are still to run.

    Raises:
        UserError: not even one trial fits.
    """
    demand, places = demand_of(wanted), places_on(nodes, wanted)
    room = places // wanted.workers
    if room < 1:
        needs = ", ".join(f"{amount * wanted.workers:g} {kind}" for kind, amount in demand.items())
        has = ", ".join(f"{sum(node.get(kind, 0) for node in nodes):g} {kind}" for kind in demand)
        where = f" on {len(nodes)} nodes with room for {places} workers" if len(nodes) > 1 else ""
        raise UserError(f"resources.workers = {wanted.workers}: a trial needs {needs}, the cluster has {has}{where}")
    return min(room, trials, wanted.concurrent_trials or trials)


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
