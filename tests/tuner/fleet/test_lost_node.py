"""A node is lost during a search: its trials go on with other workers, and its slot comes back with another node."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster

from tests.chaos.phases import checkpoints
from tests.timeless import timeless_trials
from tests.tuner.clusters import cluster_of, kill_node_of, starts
from tests.tuner.conftest import SMALL, Tuner
from tests.tuner.fleet.test_kill import wait_for

pytestmark = [pytest.mark.long, pytest.mark.ray, pytest.mark.timeout(600)]
EPOCHS = 24
HALF = EPOCHS * 4  # steps; an epoch has 8


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with cluster_of(0, 1, 1) as made:
        yield made


@pytest.fixture(scope="module")
def search(tuner: Tuner) -> str:
    """Trials of one worker that depend only on their numbers, so that all scores are the same whatever happens."""
    train = {**SMALL["trial"]["train"], "epochs": EPOCHS}
    return tuner.write_search(
        trials=6,
        trial={**SMALL["trial"], "train": train},
        sampler={"kind": "random"},
        stopping={"kind": "none"},
        resources={"workers": 1},
    )


@pytest.fixture(scope="module")
def untouched(tuner: Tuner, search: str, cluster: Cluster) -> dict[str, Any]:
    """What the search comes to on two slots."""
    tuner.run("launch", search, "--address", cluster.address, "--run", "untouched")
    return tuner.state("untouched")


def running(run: Path) -> list[tuple[str, int, int]]:
    """Trials that have a checkpoint and half of their steps before them: key, slot and process of the last start."""
    found = [(folder.name, *starts(folder)[-1]) for folder in sorted((run / "trials").glob("[0-9]*")) if starts(folder)]
    return [
        start
        for start in found
        if Path(f"/proc/{start[2]}").exists() and 0 < max(checkpoints(run, start[0]), default=0) <= HALF
    ]


def two_of(found: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """The last two of them, if there are so many."""
    return found[-2:] if len(found) > 1 else []


def started_elsewhere(run: Path, kept: int) -> int:
    """How often any trial was started on a slot other than the one that was kept."""
    return sum(slot != kept for folder in (run / "trials").iterdir() for slot, _ in starts(folder))


def test_a_node_is_lost_and_another_joins(
    tuner: Tuner, search: str, cluster: Cluster, untouched: dict[str, Any]
) -> None:
    run = tuner.folder / "joined"
    driver = tuner.start(
        "launch", search, "--address", cluster.address, "--run", "joined", "--set", "trials=12"
    )  # so that work is left
    (_, kept, _), (key, slot, process) = wait_for(lambda: two_of(running(run)), "trials on both nodes")
    kill_node_of(process)
    killed = time.monotonic()
    wait_for(lambda: "is lost" in (run / "logs" / "driver.log").read_text(), "word of the lost node", 60)
    print(f"trial {key} on slot {slot}: node seen as lost {time.monotonic() - killed:.1f} s after the kill")
    time.sleep(max(0.0, killed + 8 - time.monotonic()))
    before = started_elsewhere(run, kept)
    cluster.add_node(num_cpus=1)
    joined = time.monotonic()
    wait_for(
        lambda: started_elsewhere(run, kept) > before,
        "work on the node that joined",
        120,
    )
    print(f"slot {slot} of trial {key}: another one works {time.monotonic() - joined:.1f} s after the join")
    assert time.monotonic() - joined < 75
    out, err = driver.communicate(timeout=280)
    assert driver.returncode == 0, f"{out}\n{err}"
    state = tuner.state("joined")
    assert [row["state"] for row in state["trials"]] == ["complete"] * 12
    assert timeless_trials(state, slots=False)[:6] == timeless_trials(untouched, slots=False)


def test_a_node_is_lost_for_good(tuner: Tuner, search: str, cluster: Cluster, untouched: dict[str, Any]) -> None:
    run = tuner.folder / "lost"
    driver = tuner.start("launch", search, "--address", cluster.address, "--run", "lost", "--set", "trials=7")
    key, slot, process = wait_for(lambda: two_of(running(run)), "trials on both nodes")[-1]
    kill_node_of(process)
    killed = time.monotonic()
    out, err = driver.communicate(timeout=400)
    print(f"trial {key} on slot {slot}: the search ended {time.monotonic() - killed:.0f} s after the kill")
    assert driver.returncode == 0, f"{out}\n{err}"
    begun = {folder.name: len(starts(folder)) for folder in (run / "trials").glob("[0-9]*")}
    assert sorted(begun.values()) == [1] * 6 + [2], "the trial that the lost slot was on when Ray said so has moved"
    state = tuner.state("lost")
    assert [row["state"] for row in state["trials"]] == ["complete"] * 7
    assert timeless_trials(state, slots=False)[:6] == timeless_trials(untouched, slots=False)
