"""A worker whose generation has ended without it: its process ends, also where its stacks cannot be written."""

import os
import threading
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from trainables import ray_train
from trainables.ray_train import _asked, sum_wait
from trainables.running.messages import Assignment, Work
from trainables.running.segment import Segment
from trainables.running.trial_log import dump_stacks
from tuner.fleet import trainer
from tuner.plan.resources import Resources

ASSIGNMENT = Assignment(Work("0000", {}, ""), 1, "owner", 1, 0, 1, 0, 1, ("", 0))


@pytest.mark.parametrize("log", ["rank-0.log", "missing/rank-0.log"])
def test_it_ends_whether_or_not_its_log_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: str
) -> None:
    ended = threading.Event()

    monkeypatch.setattr(ray_train.ray, "get", lambda answer: "gone")
    monkeypatch.setattr(ray_train, "GONE_WAIT", 0.01)
    monkeypatch.setattr(os, "_exit", lambda status: ended.set())
    with _asked(MagicMock(), ASSIGNMENT, Segment(), tmp_path / log):
        assert ended.wait(5)


def test_stacks_go_to_the_log_of_the_trial(tmp_path: Path) -> None:
    dump_stacks(tmp_path / "rank-0.log")
    assert "test_given_up.py" in (tmp_path / "rank-0.log").read_text()


@pytest.mark.parametrize(("patience", "minutes"), [("30s", 10), ("10m", 11), ("2h", 121)])
def test_a_sum_waits_for_longer_than_the_patience_with_a_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: str, minutes: int
) -> None:
    """Or a long step of one worker would break the link of the others."""
    heard: list[float] = []
    monkeypatch.setattr(ray_train, "slot_loop", lambda board, slot, threads, patience, fit: heard.append(patience))
    made = trainer.trainer(MagicMock(), 0, Resources(patience=patience), tmp_path, None)
    made.train_loop_per_worker()
    assert sum_wait(heard[0]).total_seconds() == 60 * minutes
