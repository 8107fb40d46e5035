"""How many trials run at once: a pure function of what the nodes have and what a trial wants."""

from collections.abc import Mapping, Sequence

from trainables.errors import UserError
from tuner.spec import Resources

Node = Mapping[str, float]


def concurrent_trials(nodes: Sequence[Node], wanted: Resources, trials: int) -> int:
    """The number of slots: as many as fit and as there are trials, and no more than asked for.

    Args:
        nodes: resources of each, by Ray's names; a worker has to fit on one node, a trial may span several.
        wanted: of one trial.
        trials: how many are still to run.

    Raises:
        UserError: not even one trial fits.
    """
    demand = {"CPU": wanted.cpus_per_worker, "GPU": wanted.gpus_per_worker}
    demand = {kind: amount for kind, amount in demand.items() if amount > 0}
    places = sum(min(int(node.get(kind, 0) / amount + 1e-9) for kind, amount in demand.items()) for node in nodes)
    room = places // wanted.workers
    if room < 1:
        needs = ", ".join(f"{amount * wanted.workers:g} {kind}" for kind, amount in demand.items())
        has = ", ".join(f"{sum(node.get(kind, 0) for node in nodes):g} {kind}" for kind in demand)
        where = f" on {len(nodes)} nodes with room for {places} workers" if len(nodes) > 1 else ""
        raise UserError(f"resources.workers = {wanted.workers}: a trial needs {needs}, the cluster has {has}{where}")
    return min(room, trials, wanted.concurrent_trials or trials)
