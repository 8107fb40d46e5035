"""The accounts of a cluster: which searches run on it, and how much of it each of them may hold.

An actor on the head keeps them, for all drivers. It belongs to no driver, and ends by itself after the last search.
It also tells the autoscaler, where the cluster has one, what all searches together could use.
"""

import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Iterable
from typing import Any, Protocol

import ray
from ray.autoscaler.sdk import request_resources

from tuner.fleet.board import Method
from tuner.fleet.nodes import first_line, look
from tuner.fleet.shares import Demand, allowances
from tuner.search.allocation import Node

log = logging.getLogger(__name__)
NAMESPACE = "teacher-tuner"
NAME = "accounts-2"  # ends with the version of the protocol: drivers of another version keep other accounts
LEASE = 30.0  # seconds for which a demand counts after it was told
CHECK_EVERY = 1.0  # seconds between two looks for leases that have run out
RENEW_EVERY = 2.0  # seconds between two renewals of a driver
ANSWER_WITHIN = 3.0  # seconds for the actor to hear that a driver leaves
HEAD = {"node:__internal_head__": 0.001}
TAKE_BACK_TRIES = 10  # how often the actor tries to take its request back before it ends all the same
MOST_BUNDLES = 10_000  # that the autoscaler is told of


class Ledger:
    """The leases of searches. Plain, without Ray and without a clock: `now` is in seconds on any clock."""

    def __init__(self) -> None:
        self._leases: dict[str, tuple[float, Demand]] = {}  # when it ends, by the id of the driver

    def renew(self, driver: str, demand: Demand, nodes: Iterable[Node], now: float) -> int:
        """Takes a driver's demand for the next LEASE seconds; returns how many slots it may hold."""
        self.expire(now)
        self._leases[driver] = (now + LEASE, demand)
        return allowances(nodes, {name: leased for name, (_, leased) in self._leases.items()})[driver]

    def leave(self, driver: str) -> None:
        """Ends the lease of a driver."""
        self._leases.pop(driver, None)

    def expire(self, now: float) -> None:
        """Ends the leases that were not renewed in time."""
        self._leases = {driver: lease for driver, lease in self._leases.items() if lease[0] > now}

    @property
    def empty(self) -> bool:
        """Whether there is no lease."""
        return not self._leases

    def bundles(self) -> list[dict[str, float]]:
        """What all drivers together could use: a bundle of resources for each worker."""
        return [bundle for _, demand in self._leases.values() for bundle in demand.bundles][:MOST_BUNDLES]


def may_end(over: bool, taken_back: bool, failed: int) -> bool:
    """Whether the actor may end now.

    The autoscaler keeps a request for ever, so the actor takes its own one back before it ends.

    Args:
        over: whether there is no lease.
        taken_back: whether the autoscaler has heard that nothing is needed any more.
        failed: how many tries to tell it so have failed in a row.
    """
    return over and (taken_back or failed >= TAKE_BACK_TRIES)


class Accounts:
    """The actor. It ends as soon as the last driver has left, or LEASE seconds after the last demand."""

    def __init__(self) -> None:
        self._ledger, self._lock = Ledger(), threading.Lock()
        self._ends_at = time.monotonic() + LEASE  # if no driver ever tells a demand
        self._requested: list[dict[str, float]] = []
        self._itself = ray.get_runtime_context().current_actor
        threading.Thread(target=self._keep, daemon=True).start()

    def renew(self, driver: str, demand: Demand) -> int:
        """Takes a driver's demand; returns how many slots it may hold now."""
        nodes = look().usable.values()
        with self._lock:
            self._ends_at = 0.0
            return self._ledger.renew(driver, demand, nodes, time.monotonic())

    def leave(self, driver: str) -> None:
        """Ends the lease of a driver, whose workers are gone."""
        with self._lock:
            self._ledger.leave(driver)

    def _keep(self) -> None:
        """Lets leases run out, tells the autoscaler of each change, and ends the actor after the last lease."""
        failed = 0
        while True:
            time.sleep(CHECK_EVERY)
            with self._lock:
                self._ledger.expire(time.monotonic())
                bundles, over = self._ledger.bundles(), self._ledger.empty and time.monotonic() >= self._ends_at
            failed = failed if over else 0
            if bundles != self._requested:
                try:
                    request_resources(bundles=bundles)
                    self._requested = bundles
                except Exception as error:  # of many kinds; it is asked again
                    failed += 1
                    log.warning("the autoscaler does not take a request (%s)", first_line(error))
            if may_end(over, bundles == self._requested, failed):
                ray.kill(self._itself)


class AccountsHandle(Protocol):
    """Handle of the actor."""

    @property
    def renew(self) -> Method[int]: ...
    @property
    def leave(self) -> Method[None]: ...


class Account:
    """A driver's account, as a context: its lease is renewed by `allowance`, and ends with the block.

    Args:
        workers: of a slot.
        per_worker: resources of one worker.
    """

    def __init__(self, workers: int, per_worker: dict[str, float]):
        self._workers, self._per_worker = workers, per_worker
        self._driver = uuid.uuid4().hex
        self._handle: AccountsHandle | None = None
        self._asked: ray.ObjectRef[int] | None = None  # an answer that may still have to come
        self._allowance: int | None = None
        self._renewed = -RENEW_EVERY
        self._told = ""

    def allowance(self, held: int, wanted: int) -> int:
        """How many slots the driver may hold, by the last answer: it does not wait for one.

        Args:
            held: slots that hold resources now.
            wanted: slots that could be used. The driver may hold them all before the first answer.
        """
        try:
            if self._asked is not None and ray.wait([self._asked], timeout=0)[0]:
                answer, self._asked = self._asked, None
                self._allowance = ray.get(answer)
            if self._asked is None and time.monotonic() - self._renewed >= RENEW_EVERY:
                self._renewed = time.monotonic()
                demand = Demand(held, wanted, self._workers, self._per_worker)
                self._handle = self._handle or _accounts()
                self._asked = self._handle.renew.remote(self._driver, demand)
        except Exception as error:  # Ray raises errors of many kinds; the actor may have ended a moment ago
            self._handle = None
            if first_line(error) != self._told:
                self._told = first_line(error)
                log.warning("the accounts of the cluster do not answer (%s)", self._told)
        return wanted if self._allowance is None else self._allowance

    def __enter__(self) -> "Account":
        return self

    def __exit__(self, *error: object) -> None:
        if self._handle is not None:
            with contextlib.suppress(Exception):  # the lease runs out by itself
                ray.get(self._handle.leave.remote(self._driver), timeout=ANSWER_WITHIN)


def _accounts() -> AccountsHandle:
    """The actor of this cluster; it is made where there is none."""
    actor: Any = ray.remote(Accounts)
    return actor.options(
        name=NAME, namespace=NAMESPACE, lifetime="detached", get_if_exists=True, num_cpus=0, resources=HEAD
    ).remote()
