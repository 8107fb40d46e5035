"""Two searches share a cluster that has no room for all that both would take: both go on, and end."""

import pytest

from tests.tuner.clusters import cluster_of
from tests.tuner.conftest import Tuner

pytestmark = [pytest.mark.long, pytest.mark.ray, pytest.mark.timeout(400)]


def test_two_searches_on_three_cpus_end(tuner: Tuner) -> None:
    """Trials of two workers, and of one: each search counts on all three CPUs."""
    with cluster_of(3) as cluster:
        drivers = {}
        for name, workers in (("wide", 2), ("narrow", 1)):
            search = tuner.write_search(trials=3, resources={"workers": workers})
            drivers[name] = tuner.start("launch", search, "--address", cluster.address, "--run", name)
            assert drivers[name].stdout is not None
            assert drivers[name].stdout.readline().startswith("search 'small'")  # it has read its file
        for name, driver in drivers.items():
            out, err = driver.communicate(timeout=300)
            assert driver.returncode == 0, f"{name}: {out}\n{err}"
            assert {row["state"] for row in tuner.state(name)["trials"]} <= {"complete", "stopped"}
