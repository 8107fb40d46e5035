"""A search on a cluster of two nodes, each with room for one worker: the trial's worker group spans both."""

import json
from collections.abc import Iterator

import pytest
from ray.cluster_utils import Cluster

from tests.tuner.conftest import Tuner

pytestmark = [pytest.mark.long, pytest.mark.ray, pytest.mark.timeout(300)]


@pytest.fixture
def address() -> Iterator[str]:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        yield cluster.address
    finally:
        cluster.shutdown()


def test_a_search_on_two_nodes(tuner: Tuner, address: str) -> None:
    tuner.run("launch", tuner.write_search(trials=2), "--address", address, "--run", "run")
    state = tuner.state("run")
    assert state["trials"][0]["state"] == "complete"
    manifest = json.loads((tuner.folder / "run" / "manifest.json").read_text())
    assert [node["CPU"] for node in manifest["sessions"][0]["nodes"]] == [1, 1]
