"""What a cluster has now: its nodes, those that are being drained, its free resources, and what dead actors left.

This file holds what is private in Ray's state of a cluster.
"""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ray
from ray import ActorID
from ray._private.state import available_resources_per_node, state  # the public ways need the dashboard
from ray.core.generated import gcs_pb2

from tuner.plan.resources import Resources
from tuner.search.allocation import demand_of, places_on

Amounts = Mapping[str, float]
"""Amounts of resources, by Ray's names."""


@dataclass(frozen=True)
class Nodes:
    """The nodes of a cluster at one moment, by their ids.

    Attributes:
        usable: all resources of each node that lives and is not being drained.
        draining: nodes that live and are about to leave the cluster.
        dead: nodes that have left it.
    """

    usable: Mapping[str, Amounts] = field(default_factory=dict)
    draining: frozenset[str] = frozenset()
    dead: frozenset[str] = frozenset()


def look() -> Nodes:
    """The nodes of the cluster now."""
    nodes, draining = ray.nodes(), state.get_draining_nodes()
    alive = {node["NodeID"]: node["Resources"] for node in nodes if node["Alive"]}
    return Nodes(
        {name: resources for name, resources in alive.items() if name not in draining},
        frozenset(draining) & alive.keys(),
        frozenset(node["NodeID"] for node in nodes if not node["Alive"]),
    )


def abandoned() -> list[str]:
    """Placement groups of this driver that actors made which are dead, by their ids.

    They are those of controllers that were killed. Ray keeps such a group, with its resources, until the driver ends;
    where no worker of it was up, nobody else knows of it. A group that the driver has made itself, as Tune does for
    its actors, is marked in the same way, and has no actor.
    """
    messages: Any = gcs_pb2  # made at run time, so that a type checker does not see what is in it
    kind, job = messages.PlacementGroupTableData, bytes.fromhex(ray.get_runtime_context().get_job_id())
    groups = map(kind.FromString, state._connect_and_get_accessor().get_placement_group_table())
    return [
        group.placement_group_id.hex()
        for group in groups
        if group.creator_job_id == job
        and group.creator_actor_dead
        and group.creator_actor_id != ActorID.nil().binary()
        and group.state != kind.REMOVED
    ]


def needs_of(resources: Resources) -> str:
    """What a slot asks for, in words: "2 workers of 1 CPU and 1 GPU"."""
    workers = resources.smallest
    needs = " and ".join(f"{amount:g} {kind}" for kind, amount in demand_of(resources).items())
    return f"{f'{workers} workers' if workers > 1 else 'a worker'} of {needs}"


class Room:
    """Gives the free resources of the cluster to slots that want to launch their workers.

    What a slot was given counts as taken until its workers are up, or its launch has failed.

    Args:
        resources: of a trial; a slot has its smallest number of workers.
    """

    def __init__(self, resources: Resources):
        self._resources = resources
        self._lock = threading.Lock()
        self._given: dict[int, float] = {}  # slots whose workers start, and since when

    def take(self, slot: int) -> str:
        """Gives room to a slot; returns why there is none, or "" where the slot has it now."""
        try:
            free, draining = available_resources_per_node(), state.get_draining_nodes()
        except Exception as error:  # of many kinds, if Ray's head does not answer
            return f"the cluster does not say what is free ({first_line(error)})"
        nodes = [amounts for name, amounts in free.items() if name not in draining]
        places = places_on(nodes, self._resources)
        with self._lock:
            if places >= self._resources.smallest * (1 + len(self._given)):
                self._given[slot] = time.monotonic()
                return ""
        needs = needs_of(self._resources)
        return f"no room for {needs}: {places} would fit into what is free (nodes: {len(nodes)})"

    def settle(self, *slots: int) -> None:
        """The workers of these slots are up, or their launch has ended."""
        with self._lock:
            for slot in slots:
                self._given.pop(slot, None)

    def starting(self) -> dict[int, float]:
        """Slots whose workers start, and for how many seconds."""
        with self._lock:
            now = time.monotonic()
            return {slot: now - since for slot, since in self._given.items()}


def first_line(why: BaseException | None) -> str:
    """The type of an error and the first line of its text."""
    return f"{type(why).__name__}: {(str(why).splitlines() or [''])[0]}" if why else "its workers went home"
