"""A trial that is paused goes on elsewhere, and ends as one that was not: pause and promotion on real Ray."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.timeless import timeless
from tests.tuner.conftest import SMALL
from trainables.running import checkpoint
from trainables.running.fit import fit
from tuner.fleet import bridge, tuning
from tuner.fleet.cluster import cluster
from tuner.fleet.slots import Slots
from tuner.plan import space, spec
from tuner.runs.run import Run
from tuner.search.core import Core
from tuner.search.stoppers.base import Stopper, Verdict
from tuner.search.study import Proposal, Study, key_of

pytestmark = [pytest.mark.long, pytest.mark.ray, pytest.mark.timeout(600)]


class PauseFirst(Stopper):
    """Pauses trial 0000 after its first epoch, until trial 0002 has its first, which then has the slot of 0000."""

    paused = False
    waited = False

    def hear(self, key: str, epoch: int, score: float) -> Verdict:
        self.waited |= key == "0002"
        if key == "0000" and not self.paused:
            self.paused = True
            return "pause"
        return "continue"

    def promoted(self) -> list[str]:
        return ["0000"] if self.waited else []


class Ear:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.began: list[str] = []

    def trial_began(self, proposal: Proposal) -> None:
        self.began.append(proposal.key)

    def epoch_heard(self, proposal: Proposal, metrics: Mapping[str, Any]) -> None:
        pass

    def trial_ended(self, proposal: Proposal, error: str | None) -> None:
        assert error is None

    def search_ended(self) -> None:
        self.began.append("end")


def tensors(folder: Path) -> dict[str, Any]:
    found = checkpoint.newest(folder)
    assert found is not None
    return found.tensors


def test_a_paused_trial_goes_on_elsewhere_bit_for_bit(tmp_path: Path) -> None:
    """A search with two slots of one worker; each of its trials equals the same trial trained alone, without Ray."""
    trial = {**SMALL["trial"], "train": {**SMALL["trial"]["train"], "epochs": 5}}
    wanted = spec.parse({**SMALL, "trial": trial, "trials": 3, "resources": {"workers": 1}, "stopping": "none"})
    run = Run.create(tmp_path / "run", "search", wanted.plain(), 0)
    study, ear = Study(run.journal, wanted, space.load(wanted.space)), Ear()
    with cluster("local", run), Slots(2, wanted.resources, run.ray_folder) as slots:
        while len(slots.state().up) < 2:  # or 0000 would begin alone
            time.sleep(0.2)
        tuning.tune_with(bridge.Bridge(Core(study, PauseFirst(wanted)), run, slots, lambda: [ear]))
    assert ear.began == ["0000", "0001", "0002", "0000", "end"]
    log = (run.trial_folder("0000") / "rank-0.log").read_text()
    places = [line.partition(" on slot ")[2][0] for line in log.splitlines() if " on slot " in line]
    assert len(places) == 2 and places[0] != places[1], "its second segment was on another slot"
    events = [content["event"] for _, key, content in study.records() if key == "0000"]
    assert events == ["start", "epoch", "promotion", "start", "epoch", "epoch", "epoch", "epoch", "end"]
    torch.set_num_threads(1)  # as a worker of one CPU has it: sums of more threads round otherwise
    for told in study.trials():
        alone = tmp_path / "alone" / key_of(told)
        history = fit(study.config_of(told), alone, lambda metrics: "on")
        assert told.intermediate_values == {metrics["epoch"]: metrics["knn_top1"] for metrics in history}
        drawn = {"loss_curve": None}  # it goes to TensorBoard alone
        assert timeless({**told.user_attrs["metrics"], **drawn}) == timeless({**history[-1], **drawn})
        before, after = tensors(alone), tensors(run.trial_folder(key_of(told)))
        assert before.keys() == after.keys() and all(before[name].equal(after[name]) for name in before)
