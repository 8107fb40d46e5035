"""Joining a cluster: the driver's account with other drivers, a wait for room, slots, and a watch over them."""

import contextlib
from collections.abc import Callable, Iterator

from tuner.fleet.accounts import Account
from tuner.fleet.cluster import cluster
from tuner.fleet.nodes import Amounts
from tuner.fleet.slots import Slots
from tuner.fleet.waiting import tell_wait, wait_for_room
from tuner.fleet.watch import Watch
from tuner.plan.resources import Resources
from tuner.runs.hints import resume_hint
from tuner.runs.run import Run
from tuner.search.allocation import demand_of


def account_for(address: str, resources: Resources) -> Account | None:
    """The driver's account on a cluster that others may use as well; None on a cluster of its own.

    Args:
        address: of the cluster.
        resources: of a trial.
    """
    return None if address == "local" else Account(resources.smallest, demand_of(resources))


@contextlib.contextmanager
def joined_slots(
    address: str, resources: Resources, useful: int, run: Run, wait: float, say: Callable[[str], None]
) -> Iterator[tuple[Slots, list[Amounts]]]:
    """Slots on a cluster, with a Ray session of their own.

    Args:
        address: of the cluster.
        resources: of a trial.
        useful: how many slots can be used at the beginning.
        run: for logs; its readers are told of waits.
        wait: seconds to wait for a cluster that has no room for a trial; 0 to refuse it at once.
        say: called with a line for the terminal, such as the reason of a wait.

    Yields:
        The slots, and all resources of each node.

    Raises:
        UserError: the cluster has no room for a trial.
        BrokenOff: it had none in all the time to wait.
    """

    def tell(why: str) -> None:
        tell_wait(run, lambda reason: say(f"waiting: {reason}" if reason else "going on"), why)

    with cluster(address, run), contextlib.ExitStack() as stack:
        if (account := account_for(address, resources)) is not None:
            stack.enter_context(account)
        there = wait_for_room(run, resources, wait, say, account, useful)
        with Slots(useful, resources, run.ray_folder, account=account) as groups, Watch(groups.board, resume_hint(run)):
            groups.on_wait = tell
            yield groups, there
