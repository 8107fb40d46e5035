"""Two searches share a cluster that has no room for all that both would take: both train at once, and end."""

from collections.abc import Iterator

import pytest

from tests.tuner.clusters import cluster_of, starts
from tests.tuner.conftest import SMALL, Tuner
from tests.tuner.fleet.test_kill import wait_for
from tuner.search.failures import STOPPED_EARLY

pytestmark = [pytest.mark.long, pytest.mark.ray, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with cluster_of(3) as cluster:
        yield cluster.address


@pytest.mark.parametrize("workers", [(2, 1), (1, 2)])
def test_two_searches_on_three_cpus_end(tuner: Tuner, address: str, workers: tuple[int, int]) -> None:
    """The second has room for one of its three slots, or for none until the first gives back what is not its share."""
    first, second = (f"{place} of {workers}" for place in ("first", "second"))
    long = {**SMALL["trial"], "train": {**SMALL["trial"]["train"], "epochs": 400}}
    drivers = {}
    for name, count, trial in ((first, workers[0], long), (second, workers[1], SMALL["trial"])):
        search = tuner.write_search(trials=3, resources={"workers": count}, trial=trial, stopping={"kind": "none"})
        drivers[name] = tuner.start("launch", search, "--address", address, "--run", name)
        wait_for(lambda name=name: (tuner.folder / name / "logs" / "driver.log").exists(), "start")
        wait_for(lambda name=name: starts(tuner.folder / name / "trials" / "0000"), f"first trial of the {name}")
    assert drivers[first].poll() is None, "the second did not have to wait for its end"
    for name, states in ((second, {"complete"}), (first, {"stopped", "complete"})):
        if name == first:
            tuner.run("stop", first)
        out, err = drivers[name].communicate(timeout=280)
        assert drivers[name].returncode == 0, f"{name}: {out}\n{err}"
        rows = [row for row in tuner.state(name)["trials"] if row["error"] != STOPPED_EARLY]
        assert rows and {row["state"] for row in rows} <= states
        # how long the first takes to give room back decides whether there is anything to be told
        assert (name == second and workers[1] == 2) or "waiting: " not in out, out
