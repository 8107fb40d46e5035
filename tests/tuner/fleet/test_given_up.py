"""A worker whose generation has ended without it: its process ends, also where its stacks cannot be written."""

import os
import threading
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from trainables import ray_train
from trainables.ray_train import _asked, _dump_stacks
from trainables.running.messages import Assignment, Work
from trainables.running.segment import Segment

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
    _dump_stacks(tmp_path / "rank-0.log")
    assert "test_given_up.py" in (tmp_path / "rank-0.log").read_text()
