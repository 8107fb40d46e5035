"""How many trials run at once: a pure function of what the cluster has and what a trial wants."""

from collections.abc import Mapping

from trainables.errors import UserError
from tuner.spec import Resources


def concurrent_trials(cluster: Mapping[str, float], wanted: Resources, trials: int) -> int:
    """The number of slots: as many as fit and as there are trials, and no more than asked for.

    Args:
        cluster: total resources, by Ray's names.
        wanted: of one trial.
        trials: how many are still to run.

    Raises:
        UserError: not even one trial fits.
    """
    demand = {"CPU": wanted.workers * wanted.cpus_per_worker, "GPU": wanted.workers * wanted.gpus_per_worker}
    rooms = [int(cluster.get(kind, 0) / amount + 1e-9) for kind, amount in demand.items() if amount > 0]
    if min(rooms) < 1:
        has = ", ".join(f"{cluster.get(kind, 0):g} {kind}" for kind in demand)
        needs = ", ".join(f"{amount:g} {kind}" for kind, amount in demand.items() if amount > 0)
        raise UserError(f"resources.workers = {wanted.workers}: a trial needs {needs}, the cluster has {has}")
    return max(1, min(*rooms, trials, wanted.concurrent_trials or trials))
