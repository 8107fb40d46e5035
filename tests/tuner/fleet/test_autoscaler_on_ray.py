"""What the autoscaler of a cluster is told: what all drivers together could use, and nothing after the last one."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
import ray
from ray._private.ray_constants import AUTOSCALER_RESOURCE_REQUEST_CHANNEL
from ray.cluster_utils import Cluster
from ray.experimental.internal_kv import _internal_kv_get

from tests.tuner.clusters import cluster_of
from tests.tuner.fleet.test_kill import wait_for
from tuner.fleet.accounts import LEASE, NAME, NAMESPACE

pytestmark = [pytest.mark.long, pytest.mark.ray, pytest.mark.timeout(300)]
DRIVER = """
import select, sys, ray
from tuner.fleet.accounts import Account
ray.init(sys.argv[1], log_to_driver=False, configure_logging=False)
with Account(int(sys.argv[3]), {"CPU": 1.0}) as account:
    while not select.select([sys.stdin], [], [], 0.2)[0]:
        account.allowance(0, int(sys.argv[2]))
"""


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with cluster_of(1) as made:
        ray.init(made.address, log_to_driver=False, namespace=NAMESPACE)
        try:
            yield made
        finally:
            ray.shutdown()


@contextlib.contextmanager
def driver(cluster: Cluster, slots: int, workers: int) -> Iterator[subprocess.Popen[str]]:
    """A process with an account, which leaves once its standard input is closed.

    Args:
        cluster: that it joins.
        slots: that it wants.
        workers: of a slot, of one CPU each.
    """
    command = [sys.executable, "-c", DRIVER, cluster.address, str(slots), str(workers)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def told() -> list[dict[str, float]]:
    """A bundle of resources for each worker that the autoscaler is to make room for, as Ray's monitor reads it."""
    found = _internal_kv_get(AUTOSCALER_RESOURCE_REQUEST_CHANNEL)
    return json.loads(found) if found else []


def becomes(workers: int, seconds: float) -> None:
    wait_for(lambda: told() == [{"CPU": 1.0}] * workers, f"request for {workers} workers", seconds)


def test_the_autoscaler_hears_what_drivers_could_use_until_they_leave_or_are_killed(cluster: Cluster) -> None:
    assert told() == []
    with driver(cluster, slots=3, workers=2) as first, driver(cluster, slots=1, workers=1) as second:
        becomes(7, 90)
        first.communicate(timeout=30)
        assert first.returncode == 0
        becomes(1, 10)
        second.send_signal(signal.SIGKILL)
        second.wait(10)
        killed = time.monotonic()
        becomes(0, LEASE + 10)
        print(f"the request of a killed driver was taken back after {time.monotonic() - killed:.1f} s")
    wait_for(lambda: not any(one == NAME for one in ray.util.list_named_actors()), "end of the accounts", 10)
    assert told() == [], "the accounts take their request back before they end"
