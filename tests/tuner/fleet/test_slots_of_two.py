"""Two slots of two workers train one trial, and one of the four processes dies, in whatever it is doing: real Ray."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from tests.timeless import timeless_history
from tests.tuner.clusters import cluster_of
from tests.tuner.conftest import SMALL
from tests.tuner.fleet.test_kill import wait_for
from trainables.config import trial as c
from trainables.running.fit import fit
from trainables.running.messages import Metrics, Work
from tuner.fleet.cluster import cluster
from tuner.fleet.conversation import Conversation
from tuner.fleet.slots import Slots
from tuner.plan.resources import Resources
from tuner.runs.run import Run

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(600)]
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import this file
TRIAL = {
    **SMALL["trial"],
    "train": {**SMALL["trial"]["train"], "epochs": 24, "batch_size": 64, "shard_size": 16},
}
CASES = [("step", 0), ("step", 1), ("step", 2), ("step", 3), ("checkpoint", 0), ("evaluation", 3), ("regroup", 2)]
TURN = {"step": 10, "checkpoint": 3, "evaluation": 2, "regroup": 1}
"""The turn of each moment, counted in a generation (of a regroup, since the last trial), at which it happens."""


def deadly_fit(config: c.TrialConfig, folder: Path, report: Callable, group: Any, segment: Any) -> None:
    """`fit` with an accident: the process of a rank kills itself once, at the moment that a file beside it names."""
    from trainables import ray_train
    from trainables.running import fit as running
    from trainables.running import saver

    moment, rank = folder.with_suffix(".accident").read_text().split()
    turns = 0

    def strikes(now: str, place: Any) -> None:
        nonlocal turns
        if now == moment and place.size == 4 and place.rank == int(rank) and not (folder / "struck").exists():
            turns += 1
            if turns == TURN[moment]:
                (folder / "struck").touch()
                os.kill(os.getpid(), signal.SIGKILL)

    def dangerous(now: str, act: Callable, here: Callable[..., Any]) -> Callable:
        def acted(*arguments: Any, **named: Any) -> Any:
            running.strikes(now, here(*arguments))  # type: ignore[attr-defined]
            return act(*arguments, **named)

        return acted

    if not hasattr(running, "strikes"):  # once a process
        running.Learner.step = dangerous(  # type: ignore[method-assign]
            "step", running.Learner.step, lambda learner, *_: learner.group
        )
        running.score = dangerous("evaluation", running.score, lambda learner, *_: learner.group)
        saver.Saver._write = dangerous(  # type: ignore[method-assign]
            "checkpoint", saver.Saver._write, lambda saving, *_: saving._learner.group
        )
        ray_train._meet = dangerous("regroup", ray_train._meet, lambda assignment, place, *_: place)
    running.strikes = strikes  # type: ignore[attr-defined]
    running.fit(config, folder, report, group, segment)


@pytest.fixture(scope="module")
def slots(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Slots, Run]]:
    run = Run.create(tmp_path_factory.mktemp("run") / "run", "search", {}, 0)
    with (
        cluster_of(4) as made,
        cluster(made.address, run),
        Slots(2, Resources(workers=2), run.ray_folder, deadly_fit) as two,
    ):
        wait_for(lambda: len(two.state().up) == 2, "both slots", 120)
        yield two, run


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[Metrics]:
    torch.set_num_threads(1)  # as a worker of one CPU has it: sums of more threads round otherwise
    return fit(c.parse(TRIAL), tmp_path_factory.mktemp("alone"), lambda metrics: "on")


@pytest.mark.parametrize(("moment", "rank"), CASES)
def test_one_of_four_dies(slots: tuple[Slots, Run], alone: list[Metrics], moment: str, rank: int) -> None:
    made, run = slots
    key, config, heard = f"{moment}-{rank}", c.parse(TRIAL), list[Metrics]()
    folder = run.trial_folder(key)
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.with_suffix(".accident").write_text(f"{moment} {rank}")
    talk = Conversation(made.board, key, Work(key, config.plain(), str(folder)))

    def hear_until(condition: Callable[[], bool]) -> None:
        while not condition():
            report = talk.take()
            assert report is not None
            heard.append(report.metrics)

    def generations() -> int:
        log = folder / "rank-0.log"
        return log.read_text().count(", generation ") if log.exists() else 0

    hear_until(lambda: len(heard) == 1)
    begun = time.monotonic()
    for slots_wanted in (2, 1, 2) if moment == "regroup" else (2,):
        wait_for(lambda: len(made.state().up) == 2, "both slots", 120)  # the trial waits for its next epoch to be asked
        before = generations()
        ray.get(made.board.resize.remote({key: (1, 2)[:slots_wanted]}))
        hear_until(lambda before=before: generations() > before)  # type: ignore[misc]
    hear_until(lambda: len(heard) == config.train.epochs)
    talk.release()
    print(f"{moment}, rank {rank}: {generations()} generations, {time.monotonic() - begun:.1f} s")
    assert (folder / "struck").exists()
    assert timeless_history(heard) == timeless_history(alone)
