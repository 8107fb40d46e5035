"""A search on a cluster of two nodes, each with room for one worker: the trial's worker group spans both."""

import json

import pytest

from tests.tuner.clusters import cluster_of
from tests.tuner.conftest import Tuner

pytestmark = [pytest.mark.long, pytest.mark.ray, pytest.mark.timeout(300)]


def test_a_search_on_two_nodes(tuner: Tuner) -> None:
    with cluster_of(1, 1) as cluster:
        tuner.run("launch", tuner.write_search(trials=2), "--address", cluster.address, "--run", "run")
    state = tuner.state("run")
    assert state["trials"][0]["state"] == "complete"
    manifest = json.loads((tuner.folder / "run" / "manifest.json").read_text())
    assert [node["CPU"] for node in manifest["sessions"][0]["nodes"]] == [1, 1]
