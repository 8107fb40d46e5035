"""Two searches share one cluster: the second one begins soon, and the first one widens again after it."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from tests.tuner.clusters import cluster_of, starts
from tests.tuner.conftest import SMALL, Tuner
from tests.tuner.fleet.test_kill import checkpoints, trains, wait_for
from tuner.fleet.accounts import NAME, NAMESPACE

pytestmark = [pytest.mark.long, pytest.mark.ray, pytest.mark.timeout(600)]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with cluster_of(2) as made:
        yield made


def at_work(run: Path) -> int:
    """How many trials are being trained."""
    last = [starts(folder)[-1][1] for folder in (run / "trials").glob("[0-9]*") if starts(folder)]
    return len({process for process in last if trains(process)})


def slots_of(tuner: Tuner, run: str) -> int:
    fleet = tuner.folder / run / "fleet.json"
    return fleet.read_text().count('"slot":') if fleet.exists() else 0


def test_the_second_search_begins_and_the_first_one_widens_again(tuner: Tuner, cluster: Cluster) -> None:
    long = {**SMALL["trial"], "train": {**SMALL["trial"]["train"], "epochs": 100}}
    common = {"resources": {"workers": 1}, "stopping": {"kind": "none"}}
    first = tuner.start(
        "launch", tuner.write_search(trials=6, trial=long, **common), "--address", cluster.address, "--run", "first"
    )
    wait_for(lambda: at_work(tuner.folder / "first") == 2, "both slots of the first search")
    short = {**SMALL["trial"], "train": {**SMALL["trial"]["train"], "epochs": 6}}
    second = tuner.start(
        "launch", tuner.write_search(trials=2, trial=short, **common), "--address", cluster.address, "--run", "second"
    )
    begun = time.monotonic()
    wait_for(lambda: checkpoints(tuner.folder / "second", "0000"), "an epoch of the second search", 120)
    print(f"the second search has its first epoch {time.monotonic() - begun:.1f} s after its launch")
    wait_for(lambda: slots_of(tuner, "first") == slots_of(tuner, "second") == 1, "fair shares", 20)
    assert first.poll() is None, "the first search was still at work"
    out, err = second.communicate(timeout=200)
    assert second.returncode == 0, f"{out}\n{err}"
    ended = time.monotonic()
    wait_for(lambda: slots_of(tuner, "first") == 2, "the first search on both slots", 90)
    print(f"the first search has both slots {time.monotonic() - ended:.1f} s after the end of the second one")
    tuner.run("stop", "first")
    out, err = first.communicate(timeout=100)
    assert first.returncode == 0, f"{out}\n{err}"

    ray.init(cluster.address, log_to_driver=False, namespace=NAMESPACE)
    try:
        wait_for(lambda: not any(one == NAME for one in ray.util.list_named_actors()), "end of the accounts", 30)
    finally:
        ray.shutdown()
