"""A trial whose slots are lent, taken back and killed ends with the bits of the same trial trained alone: real Ray."""

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import torch

from tests.timeless import timeless_history
from tests.tuner.conftest import SMALL
from tests.tuner.fleet.test_kill import wait_for
from trainables.config import trial as c
from trainables.running import checkpoint
from trainables.running.fit import fit
from trainables.running.messages import Metrics, Work
from tuner.fleet.cluster import cluster
from tuner.fleet.conversation import Conversation
from tuner.fleet.slots import Slots
from tuner.plan.resources import Resources
from tuner.runs.run import Run

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]
TRIAL = {
    **SMALL["trial"],
    "train": {**SMALL["trial"]["train"], "epochs": 40, "batch_size": 64, "shard_size": 16},
}
PLACE = re.compile(r"generation (\d+) on slot (\d+), worker 0 of (\d+), process (\d+)")


@pytest.fixture(scope="module")
def slots(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Slots, Run]]:
    run = Run.create(tmp_path_factory.mktemp("run") / "run", "search", {}, 0)
    with cluster("local", run), Slots(2, Resources(workers=1), run.ray_folder) as made:
        wait_for(lambda: len(made.state().up) == 2, "both slots", 120)
        yield made, run


def places(folder: Path) -> list[tuple[int, int, int]]:
    """The generations of a trial's first worker: the slot, the number of workers, and the process of each."""
    path = folder / "rank-0.log"
    text = path.read_text() if path.exists() else ""
    return [(int(slot), int(workers), int(process)) for _, slot, workers, process in PLACE.findall(text)]


def test_a_trial_is_widened_narrowed_and_loses_its_lead(slots: tuple[Slots, Run], tmp_path: Path) -> None:
    made, run = slots
    config, folder = c.parse(TRIAL), run.trial_folder("wide")
    board, heard = made.board, list[Metrics]()
    talk = Conversation(board, "wide", Work("wide", config.plain(), str(folder)))

    def hear(epochs: int) -> None:
        for _ in range(epochs):
            report = talk.take()
            assert report is not None
            heard.append(report.metrics)

    def hear_until(generations: int) -> None:
        while len(places(folder)) < generations:
            hear(1)

    hear(1)
    for generations, slots_wanted in ((2, 2), (3, 1), (4, 2)):
        ray.get(board.resize.remote({"wide": (1, 2)[:slots_wanted]}))
        hear_until(generations)
    assert [workers for _, workers, _ in places(folder)] == [1, 2, 1, 2]
    lead = places(folder)[-1]
    os.kill(lead[2], signal.SIGKILL)
    hear_until(5)
    wait_for(lambda: len(made.state().up) == 2, "the slot is back", 120)  # the trial waits for an epoch to be asked
    hear_until(6)
    survivor, widened = places(folder)[4:]
    assert (survivor[0] != lead[0], survivor[1]) == (True, 1), "the survivor goes on alone"
    assert widened[1] == 2, "and is widened again when the slot is back"
    hear(config.train.epochs - len(heard))
    talk.release()
    torch.set_num_threads(1)  # as a worker of one CPU has it: sums of more threads round otherwise
    alone = fit(config, tmp_path, lambda metrics: "on")
    assert timeless_history(heard) == timeless_history(alone)
    one, other = checkpoint.newest(folder), checkpoint.newest(tmp_path)
    assert one is not None
    assert other is not None
    assert all(one.tensors[name].equal(tensor) for name, tensor in other.tensors.items())
