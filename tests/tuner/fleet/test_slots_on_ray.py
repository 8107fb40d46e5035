"""Real worker groups: what a fault in one trial does to its slot and to the trials after it."""

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
import torch.distributed as dist

from trainables.config import trial as c
from trainables.config.errors import TrialFailure
from trainables.data import pulse
from trainables.running.messages import Metrics, Work
from tuner.fleet import cluster
from tuner.fleet.conversation import Conversation
from tuner.fleet.slots import Slots
from tuner.plan.resources import Resources
from tuner.runs import run as runs

pytestmark = pytest.mark.ray
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import this file


def eventful_fit(config: c.TrialConfig, folder: Path, report: Callable, group: Any, segment: Any) -> None:
    """Stands for `fit`: counts epochs in a file, sums over the workers, and has the accident that the seed names."""
    accident, progress = config.seed, folder / "epoch"
    (folder / "raylet").write_text(str(os.getppid()))
    begun = int(progress.read_text()) if progress.exists() else 0
    for epoch in range(begun + 1, config.train.epochs + 1):
        if accident == 1 and group.rank == 1 and epoch == 2:
            raise ValueError("a bad configuration, noticed on one rank only")
        if accident == 4:
            time.sleep(1)
        if accident in (2, 3) and group.rank == accident - 2 and epoch == 2 and not (folder / "killed").exists():
            (folder / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if accident == 5 and group.rank == 1 and epoch == 2 and not (folder / "stopped").exists():
            (folder / "stopped").touch()
            os.kill(os.getpid(), signal.SIGSTOP)
        if accident == 6:
            for _ in range(24):
                time.sleep(0.5)
                pulse.beat()
        total = group.sum(torch.tensor([float(epoch)])).item()
        if group.rank == 0:
            progress.write_text(str(epoch))
        metrics = {"epoch": epoch, "loss": total + 100 * accident, "begun": begun}
        if not group.decide(group.rank == 0 and report(metrics) == "on"):
            return
    if group.size > 1:
        dist.barrier()


@pytest.fixture(scope="module")
def slots(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Slots, Path]]:
    folder = tmp_path_factory.mktemp("run") / "run"
    run = runs.Run.create(folder, "search", {}, 0)
    with cluster.cluster("local", run):
        with Slots(1, Resources(workers=2, patience="10s"), run.ray_folder, eventful_fit) as made:
            yield made, folder
        assert not any(keeper.thread.is_alive() for keeper in made._keepers.values()), (
            "Ray ends a driver that calls it after its shutdown"
        )


def talk(slots: tuple[Slots, Path], key: str, accident: int, stop_at: int = 3) -> list[dict]:
    config = c.parse({"seed": accident, "train": {"epochs": 3}})
    work = Work(key, config.plain(), str(slots[1] / "trials" / key))
    conversation, heard = Conversation(slots[0].board, key, work), list[Metrics]()
    try:
        while len(heard) < stop_at and (report := conversation.take()) is not None:
            assert report.key == key
            heard.append(report.metrics)
    finally:
        conversation.release()
    return heard


def losses(heard: list[dict]) -> list[float]:
    return [metrics["loss"] for metrics in heard]


def test_accidents_do_not_touch_the_trials_around_them(slots: tuple[Slots, Path]) -> None:
    """One slot, several trials in turn: a stopped one, a failed one, two that lose a worker, and plain ones between."""
    assert losses(talk(slots, "plain", 0)) == [2, 4, 6]
    assert losses(talk(slots, "stopped", 0, stop_at=1)) == [2]
    with pytest.raises(TrialFailure, match="ValueError: a bad configuration, noticed on one rank only"):
        talk(slots, "raises", 1)
    assert losses(talk(slots, "after the failure", 0)) == [2, 4, 6]
    for accident in (2, 3):
        heard = talk(slots, f"loses worker {accident - 2}", accident)
        assert losses(heard) == [100 * accident + sum for sum in (2, 4, 6)]
        assert [metrics["begun"] for metrics in heard] == [0, 1, 1], "it went on from where it was"
    assert losses(talk(slots, "last", 0)) == [2, 4, 6]


def controller_of(raylet: int) -> int:
    """The one process of a Train controller among a raylet's children."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name, parent = (
                (folder / "cmdline").read_bytes(),
                int((folder / "stat").read_text().rpartition(")")[2].split()[1]),
            )
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == raylet and name.startswith(b"ray::TrainController"):
            return int(folder.name)
    raise AssertionError("no controller")


def test_a_slot_outlives_its_controller(slots: tuple[Slots, Path]) -> None:
    """The next controller gets the CPUs that the dead one held, and the trial goes on from its checkpoint."""
    config, folder = c.parse({"seed": 4, "train": {"epochs": 3}}), slots[1] / "trials" / "bereft"
    conversation = Conversation(slots[0].board, "bereft", Work("bereft", config.plain(), str(folder)))
    heard = [conversation.take()]
    os.kill(controller_of(int((folder / "raylet").read_text())), signal.SIGKILL)
    heard += [conversation.take(), conversation.take()]
    conversation.release()
    assert [report.metrics["loss"] for report in heard if report] == [402, 404, 406]
    assert heard[-1] is not None
    assert heard[-1].metrics["begun"] > 0
    assert losses(talk(slots, "after the controller", 0)) == [2, 4, 6]


def test_the_log_of_a_failed_trial_has_the_traceback(slots: tuple[Slots, Path]) -> None:
    with pytest.raises(TrialFailure):
        talk(slots, "logged", 1)
    log = (slots[1] / "trials" / "logged" / "rank-1.log").read_text()
    assert "Traceback" in log
    assert "noticed on one rank only" in log


@pytest.mark.long
def test_a_worker_that_is_stopped_is_noticed(slots: tuple[Slots, Path]) -> None:
    """Its process and the link to it live: only progress tells. A slow one that makes progress is left alone."""
    begun = time.monotonic()
    heard = talk(slots, "stopped worker", 5)
    print(f"a stopped worker: {time.monotonic() - begun:.0f} s in all, with a patience of 10 s")
    assert losses(heard) == [502, 504, 506]
    assert [metrics["begun"] for metrics in heard] == [0, 1, 1], "it went on from where it was"
    assert [metrics["begun"] for metrics in talk(slots, "slow", 6, stop_at=1)] == [0]
    text = (slots[1] / "trials" / "slow" / "rank-0.log").read_text()
    assert text.count("attempt") == 1
