"""Clusters of several nodes on one machine, and what may happen to them."""

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ray.cluster_utils import Cluster


@contextmanager
def cluster_of(head: int, *nodes: int) -> Iterator[Cluster]:
    """A Ray cluster.

    Args:
        head: CPUs of the head.
        nodes: CPUs of each other node.
    """
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": head, "include_dashboard": False})
    try:
        for cpus in nodes:
            cluster.add_node(num_cpus=cpus)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        cluster.shutdown()


def starts(folder: Path) -> list[tuple[int, int]]:
    """Each start of a trial, from the log of its first worker: the slot and the process, in order."""
    log = folder / "rank-0.log"
    text = log.read_text() if log.exists() else ""
    return [
        (int(slot), int(process))
        for slot, process in re.findall(r"attempt \d+, generation \d+ on slot (\d+), .* process (\d+)", text)
    ]


def raylet_of(worker: int) -> int:
    """The process of the node that a worker's process belongs to."""
    return int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1])


def kill_node_of(worker: int) -> None:
    """kill -9 of the raylet on whose node a worker runs, as if the machine were lost."""
    os.kill(raylet_of(worker), signal.SIGKILL)
