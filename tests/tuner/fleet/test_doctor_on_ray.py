"""`tuner doctor` on a cluster of two nodes, and what it says of a node that hangs."""

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.tuner.clusters import cluster_of
from tests.tuner.conftest import SMALL, Tuner

pytestmark = [pytest.mark.long, pytest.mark.ray, pytest.mark.timeout(300)]


def test_a_cluster_in_order(tuner: Tuner) -> None:
    (tuner.folder / "data").mkdir()
    (tuner.folder / "data" / "labels.txt").write_text("0\n5\n7\n")
    labels = {"file": str(tuner.folder / "data" / "labels.txt")}
    trial = {**SMALL["trial"], "data": {**SMALL["trial"]["data"], "labels": labels}}
    search = tuner.write_search(trial=trial)
    with cluster_of(1, 1) as cluster:
        said = json.loads(tuner.run("doctor", search, "--address", cluster.address, "--json"))
    rows = {row["name"]: row for row in said["checks"]}
    assert said["faults"] == 0
    assert rows["cluster"]["text"].endswith(" can be joined: 2 nodes, 2 CPUs")
    assert rows["nodes"]["text"] == "2 nodes answered" and rows["nodes: clocks"]["state"] == "ok"
    assert rows["nodes: storage"]["text"].endswith("is seen from every node, and so are its locks")
    assert rows["nodes: data"]["text"].endswith("labels.txt: 1 files, from every node")
    assert rows["nodes: room"]["text"] == "for 1 trial at once" and rows["trial"]["text"].startswith(
        "one of 2 workers: "
    )
    assert not (tuner.folder / "runs").exists() and not list(tuner.folder.glob(".teacher-tuner*"))


def test_a_node_that_hangs_is_named(tuner: Tuner) -> None:
    """Its raylet is stopped: it is alive for Ray, and starts no task."""
    program = (
        "import sys, ray\nfrom tuner.fleet.facts import Questions\nfrom tuner.fleet.survey import survey\n"
        "ray.init(address=sys.argv[1], log_to_driver=False)\nprint(survey(Questions(), answer=12.0).to_json())"
    )
    with cluster_of(1, 1) as cluster:
        other = cluster.list_all_nodes()[-1]
        raylet = other.all_processes["raylet"][0].process.pid
        os.kill(raylet, signal.SIGSTOP)
        try:
            ended = subprocess.run(
                [sys.executable, "-c", program, cluster.address], capture_output=True, text=True, timeout=120
            )
        finally:
            os.kill(raylet, signal.SIGCONT)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])["nodes"]
    assert [node["error"] for node in found if node["facts"] is None] in ([], ["did not answer within 12 s"])
    assert [node for node in found if node["facts"] is not None]
