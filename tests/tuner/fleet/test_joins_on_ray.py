"""Nodes join, drain and go while a search runs: its slots follow, and its scores are those of a quiet search."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster

from tests.timeless import timeless_trials
from tests.tuner.clusters import cluster_of, kill_node_of, raylet_of, starts
from tests.tuner.conftest import SMALL, Tuner
from tests.tuner.fleet.test_kill import checkpoints, trains, wait_for

pytestmark = [pytest.mark.long, pytest.mark.ray, pytest.mark.timeout(600)]
REASON = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot", "--deadline-remaining-seconds", "30"]

CONTINUED = r"continued from \S*step-"


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head without CPUs, and one node."""
    with cluster_of(0, 1) as made:
        yield made


def search(tuner: Tuner, epochs: int = 24, **changes: Any) -> str:
    """Trials that depend only on their numbers, so that all scores are the same whatever happens."""
    trial = {**SMALL["trial"], "train": {**SMALL["trial"]["train"], "epochs": epochs}}
    alone = {"sampler": {"kind": "random"}, "stopping": {"kind": "none"}, "resources": {"workers": 1}, "trials": 6}
    return tuner.write_search(**{**alone, "trial": trial, **changes})


def processes(run: Path) -> dict[str, int]:
    """The worker of each trial that is being trained, by the trial's key."""
    last = {folder.name: starts(folder)[-1][1] for folder in (run / "trials").glob("[0-9]*") if starts(folder)}
    return {key: process for key, process in last.items() if trains(process)}


def begun(run: Path) -> int:
    """How often workers have taken a trial."""
    return sum(len(starts(folder)) for folder in (run / "trials").glob("[0-9]*"))


def steps_after(words: str, run: Path, key: str) -> list[int]:
    """The steps that follow these words in a trial's log."""
    return [int(step) for step in re.findall(rf"{words}0*(\d+)", (run / "trials" / key / "rank-0.log").read_text())]


def log_of(run: Path) -> str:
    path = run / "logs" / "driver.log"
    return path.read_text() if path.exists() else ""


@pytest.fixture(scope="module")
def quiet(tuner: Tuner) -> list[dict[str, Any]]:
    """What the first two trials come to when nothing happens."""
    tuner.run("launch", search(tuner, trials=2), "--run", "quiet")
    return timeless_trials(tuner.state("quiet"), slots=False)


def test_a_node_joins_drains_and_all_nodes_go_and_one_comes_back(
    tuner: Tuner, cluster: Cluster, quiet: list[dict[str, Any]]
) -> None:
    """The search begins on one node. One joins, and is drained and killed; then all are lost, and one comes back.

    The user ends the search then; only its first two trials have to be complete.
    """
    run = tuner.folder / "joined"
    driver = tuner.start("launch", search(tuner, trials=20), "--address", cluster.address, "--run", run.name)
    wait_for(lambda: checkpoints(run, "0000"), "checkpoint on the first node")

    node, joined = cluster.add_node(num_cpus=1), time.monotonic()
    (first,) = {raylet_of(process) for process in processes(run).values()}
    second = wait_for(
        lambda: next(((k, p) for k, p in processes(run).items() if raylet_of(p) != first), None), "work on it", 90
    )
    print(f"a trial began on the new node {time.monotonic() - joined:.1f} s after the join")
    key, process = second
    wait_for(lambda: checkpoints(run, key), "checkpoint on the second node")
    raylet, ends = raylet_of(process), len(steps_after("steps until ", run, key))
    starts_before = len(steps_after(CONTINUED, run, key))

    drain = [Path(sys.executable).with_name("ray"), "drain-node", "--address", cluster.address]
    subprocess.run([*drain, "--node-id", node.node_id, *REASON], check=True, capture_output=True)
    drained = time.monotonic()
    wait_for(lambda: not trains(process), "end of the worker on the drained node", 60)
    print(f"the worker has left the drained node {time.monotonic() - drained:.1f} s after the notice")
    os.kill(raylet, signal.SIGKILL)
    wait_for(lambda: len(steps_after(CONTINUED, run, key)) > starts_before, "its next start", 200)
    left = steps_after("steps until ", run, key)[ends]
    assert steps_after(CONTINUED, run, key)[starts_before] == left, "no step before the drain is done twice"

    wait_for(lambda: processes(run), "a trial on the node that is left")
    kill_node_of(next(iter(processes(run).values())))
    lost = time.monotonic()
    wait_for(lambda: "no room: resources.workers = 1: a trial needs 1 CPU" in tuner.run("status", run.name), "word", 60)
    print(f"what is lacking is said {time.monotonic() - lost:.1f} s after the loss of all nodes")
    assert driver.poll() is None
    time.sleep(4)
    before = begun(run)
    cluster.add_node(num_cpus=1)
    back = time.monotonic()
    wait_for(lambda: begun(run) > before, "work on the node that came back", 90)
    print(f"it went on {time.monotonic() - back:.1f} s after a node came back")
    wait_for(lambda: [row["state"] for row in tuner.state(run.name)["trials"][:2]] == ["complete"] * 2, "two trials")
    tuner.run("stop", run.name)
    out, err = driver.communicate(timeout=100)
    assert driver.returncode == 0, f"{out}\n{err}\n{log_of(run)}"
    assert "waiting: no room" in out and "going on" in out
    assert timeless_trials(tuner.state(run.name), slots=False)[:2] == quiet


def test_a_launch_waits_for_a_node_and_goes_on_by_itself(tuner: Tuner) -> None:
    with cluster_of(0) as cluster:
        small = search(tuner, epochs=2, trials=1)
        ended = tuner.start("launch", small, "--address", cluster.address, "--run", "ended", "--wait", "3s")
        out, err = ended.communicate(timeout=120)
        assert ended.returncode == 3, err
        (line,) = err.splitlines()
        assert line.startswith("error: resources.workers = 1: a trial needs 1 CPU") and "waited for 3 s" in line
        assert "tuner resume ended" in line
        assert "waiting: resources.workers = 1: a trial needs 1 CPU, the cluster has 0 CPU" in out

        refused = tuner.start("launch", small, "--address", cluster.address, "--run", "refused", "--wait", "0s")
        _, err = refused.communicate(timeout=120)
        assert refused.returncode == 2 and "a trial needs 1 CPU" in err
        assert not (tuner.folder / "refused").exists()

        driver = tuner.start("resume", "ended", "--wait", "5m")
        wait_for(lambda: "waiting: " in tuner.run("status", "ended"), "word for readers", 60)
        cluster.add_node(num_cpus=1)
        out, err = driver.communicate(timeout=200)
        assert driver.returncode == 0, f"{out}\n{err}"
        assert "going on" in out


def test_workers_of_a_killed_driver_end_and_a_resume_works_beside_them(
    tuner: Tuner, quiet: list[dict[str, Any]]
) -> None:
    with cluster_of(0, 1, 1) as cluster:
        run = tuner.folder / "orphans"
        driver = tuner.start("launch", search(tuner, trials=2), "--address", cluster.address, "--run", run.name)
        orphans = wait_for(lambda: len(processes(run)) == 2 and [*processes(run).values()], "both trials")
        wait_for(lambda: all(checkpoints(run, key) for key in processes(run)), "checkpoints")
        driver.kill()
        driver.wait()
        killed = time.monotonic()
        resumed = tuner.start("resume", run.name)
        wait_for(lambda: not any(map(trains, orphans)), "end of the orphans", 30)
        print(f"the workers of a dead driver ended after {time.monotonic() - killed:.1f} s")
        out, err = resumed.communicate(timeout=400)
        assert resumed.returncode == 0, f"{out}\n{err}"
        state = tuner.state(run.name)
        assert [row["state"] for row in state["trials"]] == ["complete"] * 2
        assert timeless_trials(state, slots=False) == quiet
