"""A trial that is paused goes on elsewhere, and ends as one that was not: pause and promotion on real Ray."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.tuner.conftest import SMALL
from trainables.running import checkpoint
from tuner.fleet import bridge
from tuner.fleet.cluster import cluster
from tuner.fleet.slots import Slots
from tuner.plan import space, spec
from tuner.runs.run import Run
from tuner.search.core import Core
from tuner.search.stoppers.base import Stopper, Verdict
from tuner.search.stoppers.none import Never
from tuner.search.study import Proposal, Study

pytestmark = pytest.mark.ray


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


def search(folder: Path, kind: type[Stopper]) -> tuple[Study, Run, Ear]:
    """A search with two slots of one worker."""
    trial = {**SMALL["trial"], "train": {**SMALL["trial"]["train"], "epochs": 5}}
    wanted = spec.parse({**SMALL, "trial": trial, "trials": 3, "resources": {"workers": 1}, "stopping": "none"})
    run = Run.create(folder, "search", wanted.plain(), 0)
    study, ear = Study(run.journal, wanted, space.load(wanted.space)), Ear()
    with cluster("local", run), Slots(2, wanted.resources, run.ray_folder) as slots:
        while len(slots.state().up) < 2:  # or 0000 would begin alone
            time.sleep(0.2)
        bridge.tune_with(bridge.Bridge(Core(study, kind(wanted)), run, slots, 2, lambda: [ear]))
    return study, run, ear


def tensors(run: Run, key: str) -> dict[str, Any]:
    found = checkpoint.newest(run.trial_folder(key))
    assert found is not None
    return found.tensors


def timeless(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if not name.startswith("time/")}


def test_a_paused_trial_goes_on_elsewhere_bit_for_bit(tmp_path: Path) -> None:
    whole, undisturbed, _ = search(tmp_path / "whole", Never)
    study, run, ear = search(tmp_path / "paused", PauseFirst)
    assert ear.began == ["0000", "0001", "0002", "0000", "end"]
    log = (run.trial_folder("0000") / "rank-0.log").read_text()
    slots = [line.partition(" on slot ")[2][0] for line in log.splitlines() if " on slot " in line]
    assert len(slots) == 2 and slots[0] != slots[1], "its second segment was on another slot"
    events = [content["event"] for _, key, content in study.records() if key == "0000"]
    assert events == ["start", "epoch", "promotion", "start", "epoch", "epoch", "epoch", "epoch", "end"]
    for one, other in zip(study.trials(), whole.trials(), strict=True):
        assert one.intermediate_values == other.intermediate_values
        assert timeless(one.user_attrs["metrics"]) == timeless(other.user_attrs["metrics"])
        key = f"{one.number:04d}"
        before, after = tensors(undisturbed, key), tensors(run, key)
        assert before.keys() == after.keys() and all(before[name].equal(after[name]) for name in before)
