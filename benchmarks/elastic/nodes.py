"""A Ray cluster of several nodes on one machine, and a script of what happens to them."""

import contextlib
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from ray.cluster_utils import Cluster

from tests.chaos.processes import descendants

DRIVERS = "trial_driver"  # a resource of the head alone, by which stock Ray Tune keeps its trial actors there
FIRST, SECOND = "node 1", "node 2"


@dataclass(frozen=True)
class Event:
    """Something that happens to a node.

    Attributes:
        at: seconds since the search was launched.
        what: "join": a node of one CPU joins. "kill": kill -9 of its raylet and all of its workers.
        node: name of the node.
    """

    at: float
    what: Literal["join", "kill"]
    node: str


def script(period: float) -> list[Event]:
    """The script of all contenders, one event a period. The first node is there from the beginning."""
    return [Event(period, "join", SECOND), Event(2 * period, "kill", FIRST), Event(3 * period, "join", FIRST)]


@dataclass
class Sight:
    """A worker process as it was seen from outside, by the clock of the machine."""

    node: str
    last_seen: float


@dataclass
class Nodes:
    """A cluster whose head has no CPU, and nodes of one CPU by name.

    Attributes:
        happened: the events, as they happened: `at` is the time of the machine's clock.
        processes: of the nodes, by process id, with the ids of those that have ended.
    """

    cluster: Cluster
    raylets: dict[str, int] = field(default_factory=dict)
    happened: list[Event] = field(default_factory=list)
    processes: dict[int, Sight] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """By which drivers join."""
        return str(self.cluster.address)

    def apply(self, event: Event) -> None:
        """Makes an event happen now; returns when it has.

        A join is dated when the cluster knows the node, a loss just before the kill.
        """
        if event.what == "join":
            node: Any = self.cluster.add_node(num_cpus=1)
            self.raylets[event.node] = node.all_processes["raylet"][0].process.pid
            at = time.time()
        else:
            at = time.time()
            self.look()  # after `at`, so that the last sight of what trained is not before it
            for process in descendants([self.raylets.pop(event.node)]):
                process.send(signal.SIGKILL)
        self.happened.append(Event(at, event.what, event.node))

    def look(self) -> None:
        """Notes which processes live on which node."""
        now = time.time()
        for node, raylet in self.raylets.items():
            for process in descendants([raylet])[1:]:
                self.processes.setdefault(process.pid, Sight(node, now)).last_seen = now


@contextlib.contextmanager
def nodes(variables: dict[str, str]) -> Iterator[Nodes]:
    """A cluster with its first node, in a temporary folder of its own.

    Args:
        variables: of the environment of all its processes.
    """
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="elastic-", ignore_cleanup_errors=True) as folder:
        os.environ.update(variables)
        head = {"num_cpus": 0, "include_dashboard": False, "temp_dir": folder, "resources": {DRIVERS: 1000}}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            made = Nodes(cluster)
            made.apply(Event(0, "join", FIRST))
            cluster.wait_for_nodes()
            yield made
        finally:
            cluster.shutdown()
            os.environ.clear()
            os.environ.update(before)
