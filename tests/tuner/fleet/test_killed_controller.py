"""kill -9 of a worker group's controller before its workers are up: their CPUs are free for the next launch."""

import os
import signal
import time
from pathlib import Path

import pytest
import ray

from tests.chaos.processes import Process, descendants
from tests.tuner.fleet.test_kill import wait_for
from tuner.fleet import cluster
from tuner.fleet.accounts import HEAD
from tuner.fleet.slots import Slots
from tuner.plan.resources import Resources
from tuner.runs import run as runs

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(300)]


def controllers() -> list[Process]:
    """The controllers of worker groups of the Ray that this process has started."""
    return [process for process in descendants([os.getpid()]) if process.command.startswith("ray::TrainController")]


def groups() -> list[str]:
    """The states of all placement groups."""
    return sorted(group["state"] for group in ray.util.placement_group_table().values())


def test_the_cpus_of_a_group_whose_controller_was_killed_at_its_start_are_free_again(tmp_path: Path) -> None:
    """The only slot takes all CPUs of the cluster, so that a second group has no room beside the first."""
    run = runs.Run.create(tmp_path / "run", "search", {}, 0)
    with cluster.cluster("local", run):
        resources = Resources(workers=int(ray.cluster_resources()["CPU"]))
        with Slots(1, resources, run.ray_folder) as slots:
            wait_for(lambda: groups() == ["CREATED"], "placement group")
            assert not slots.state().up
            own = ray.util.placement_group([HEAD])  # made by the driver, as Tune does: that is nobody's who was killed
            ray.get(own.ready())
            (controller,) = controllers()
            assert controller.send(signal.SIGKILL)
            killed = time.monotonic()
            wait_for(lambda: slots.state().up, "workers of another group", 120)
            print(f"the slot was up {time.monotonic() - killed:.1f} s after the kill")
            states = {name: g["state"] for name, g in ray.util.placement_group_table().items()}
            assert states.pop(own.id.hex()) == "CREATED"
            assert sorted(states.values()) == ["CREATED", "REMOVED"]
