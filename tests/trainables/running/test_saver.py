"""Checkpoints by time: when they are written, that they are copies, and what becomes of a write that fails."""

import errno
import itertools
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.timeless import timeless_history
from tests.trainables.running.test_fit_resume import Killed, assert_same_end, go_on, kill_at
from trainables.config import trial as c
from trainables.config.errors import UserError
from trainables.learning.learner import Learner
from trainables.running import checkpoint, saver
from trainables.running import checkpoint_files as files
from trainables.running import fit as train
from trainables.running.checkpoint_files import Disowned, Name
from trainables.running.segment import Segment

ALWAYS = 1e-9  # minutes: a checkpoint is due whenever the last one is written
LONG = {"data.train_images": 400, "train.epochs": 1}  # 25 steps
WRITE = checkpoint.write


def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool, str]]:
    """Notes the step, whether it is timed, and the thread of each checkpoint that is written."""
    notes: list[tuple[int, bool, str]] = []

    def noting(folder: Path, step: int, tensors: Any, values: Any, keep: int, timed: bool, owner: str) -> Path:
        notes.append((step, timed, threading.current_thread().name))
        return WRITE(folder, step, tensors, values, keep, timed, owner)

    monkeypatch.setattr(checkpoint, "write", noting)
    return notes


def test_checkpoints_by_time_are_written_by_a_thread_and_change_nothing(tiny, tmp_path: Path, monkeypatch):
    notes = written(monkeypatch)
    train.fit(tiny({**LONG, "train.checkpoint_minutes": None}), tmp_path / "without", go_on)
    assert [note[:2] for note in notes] == [(25, False)]
    notes.clear()
    step = Learner.step

    def after_the_first(learner: Learner, batches: Any) -> Any:
        while learner.step_index == 10 and not list((tmp_path / "with").glob(checkpoint.PATTERN)):
            time.sleep(0.01)  # however long the disc takes
        return step(learner, batches)

    monkeypatch.setattr(Learner, "step", after_the_first)
    train.fit(tiny({**LONG, "train.checkpoint_minutes": ALWAYS}), tmp_path / "with", go_on)
    assert len(notes) > 2
    assert notes[0][:2] == (2, True), "asked in step 0, heard in step 1"
    assert notes[-1][:2] == (25, False)
    by_time = [(step, timed) for step, timed, _ in notes[:-1]]
    assert all(timed for _, timed in by_time)
    assert all(after - before >= 2 for (before, _), (after, _) in itertools.pairwise(by_time))
    assert all(thread.startswith("checkpoint") for *_, thread in notes)
    one, other = checkpoint.newest(tmp_path / "without"), checkpoint.newest(tmp_path / "with")
    assert one is not None and other is not None
    assert [name for name in one.tensors if not torch.equal(one.tensors[name], other.tensors[name])] == []
    assert timeless_history(one.values["history"]) == timeless_history(other.values["history"])
    assert [Name.of(path) for path in (tmp_path / "with").glob(checkpoint.PATTERN)] == [Name(25)]


def test_a_minute_is_a_minute(tiny, tmp_path: Path, monkeypatch):
    """The default does not write every few steps."""
    notes = written(monkeypatch)
    assert tiny().train.checkpoint_minutes == 1
    train.fit(tiny(LONG), tmp_path, go_on)
    assert [note[:2] for note in notes] == [(25, False)]


def test_the_state_is_that_of_its_step_although_the_trial_trains_on_while_it_is_written(tiny, tmp_path, monkeypatch):
    """A slow disc: the write begins when ten more steps are made. None other begins meanwhile."""
    config = tiny({**LONG, "train.checkpoint_minutes": ALWAYS})
    enough, make, begun = threading.Event(), Learner.step, list[int]()

    def stepping(self: Learner, batches: Any) -> torch.Tensor:
        if self.step_index == 12:
            enough.set()
        return make(self, batches)

    def slow(folder: Path, step: int, tensors: Any, values: Any, keep: int, timed: bool, owner: str) -> Path:
        begun.append(step)
        assert enough.wait(60)
        return WRITE(folder, step, tensors, values, 99, False, owner)

    monkeypatch.setattr(Learner, "step", stepping)
    monkeypatch.setattr(checkpoint, "write", slow)
    train.fit(config, tmp_path / "slow", go_on)
    assert begun[0] == 2 and begun[1] > 12
    monkeypatch.undo()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill_at(3, patch)
        train.fit(c.changed(config.plain(), {"train.checkpoint_steps": 2}), tmp_path / "alone", go_on)
    one, other = checkpoint.read(tmp_path / "slow" / str(Name(2))), checkpoint.newest(tmp_path / "alone")
    assert other is not None and other.name == Name(2)
    assert [name for name in one.tensors if not torch.equal(one.tensors[name], other.tensors[name])] == []


def test_a_fault_costs_at_most_the_interval_the_write_and_two_steps(tiny, tmp_path: Path, monkeypatch):
    """On a clock that a step moves by a second; a write takes three. The loss is taken after every step."""
    interval, writing = 5, 3
    config = tiny({"data.train_images": 800, "train.epochs": 1, "train.checkpoint_minutes": interval / 60})
    make, save, at, begun, durable, lost = Learner.step, saver.Saver.save, [0], list[int](), [0], list[int]()
    moved, done = threading.Condition(), threading.Event()

    def stepping(self: Learner, batches: Any) -> torch.Tensor:
        result = make(self, batches)
        with moved:
            at[0] = self.step_index
            moved.notify_all()
        if begun and begun[-1] + writing <= at[0]:
            assert done.wait(60)
        lost.append(at[0] - durable[0])
        return result

    def saving(self: saver.Saver, history: list[train.Metrics], timed: bool = False) -> None:
        done.clear()
        begun.append(at[0])
        save(self, history, timed)

    def slow(folder: Path, step: int, tensors: Any, values: Any, keep: int, timed: bool, owner: str) -> Path:
        with moved:
            assert moved.wait_for(lambda: min(step + writing, 50) <= at[0], 60)
        path = WRITE(folder, step, tensors, values, keep, timed, owner)
        durable[0] = step
        done.set()
        return path

    monkeypatch.setattr(Learner, "step", stepping)
    monkeypatch.setattr(saver.Saver, "save", saving)
    monkeypatch.setattr(checkpoint, "write", slow)
    monkeypatch.setattr(saver, "time", SimpleNamespace(monotonic=lambda: float(at[0])))
    train.fit(config, tmp_path, go_on)
    assert len(lost) == 50 and begun[-1] == 50
    assert interval < max(lost) <= interval + writing + 2
    assert len(begun) >= 50 // (interval + 2) - 1


def test_a_trial_that_is_killed_goes_on_from_its_timed_checkpoint(tiny, tmp_path: Path):
    config = tiny({**LONG, "train.checkpoint_minutes": ALWAYS})
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill_at(20, patch)
        train.fit(config, tmp_path / "killed", go_on)
    found = checkpoint.newest(tmp_path / "killed")
    assert found is not None and found.name.timed and found.name.step >= 2
    train.fit(c.changed(config.plain(), {"train.checkpoint_minutes": None}), tmp_path / "killed", go_on)
    train.fit(config, tmp_path / "whole", go_on)
    one, other = checkpoint.newest(tmp_path / "killed"), checkpoint.newest(tmp_path / "whole")
    assert one is not None and other is not None
    assert [name for name in one.tensors if not torch.equal(one.tensors[name], other.tensors[name])] == []


@pytest.mark.parametrize("failing", ["timed", "epoch"])
def test_an_error_of_the_writing_thread_ends_the_training(tiny, tmp_path: Path, monkeypatch, failing: str):
    """As it did when the training thread wrote: a full disc."""
    steps = []

    def full(folder: Path, step: int, tensors: Any, values: Any, keep: int, timed: bool, owner: str) -> Path:
        steps.append(step)
        if timed == (failing == "timed"):
            raise OSError(errno.ENOSPC, "No space left on device", str(folder))
        return WRITE(folder, step, tensors, values, keep, timed, owner)

    monkeypatch.setattr(checkpoint, "write", full)
    told: list[train.Metrics] = []
    with pytest.raises(OSError, match="No space left"):
        train.fit(
            tiny({**LONG, "train.checkpoint_minutes": ALWAYS}), tmp_path, lambda metrics: told.append(metrics) or "on"
        )
    assert told == [], "an epoch is not reported before its checkpoint is there"
    assert (steps == [2]) == (failing == "timed")


def test_an_epoch_is_reported_once_its_checkpoint_is_on_the_disc(tiny, tmp_path: Path):
    held = []

    def report(metrics: train.Metrics) -> train.Going:
        found = checkpoint.newest(tmp_path)
        assert found is not None
        held.append(found.values["history"][-1] == metrics)
        return "on"

    train.fit(tiny({"train.checkpoint_minutes": ALWAYS}), tmp_path, report)
    assert held == [True, True]


def test_a_segment_that_lost_its_folder_ends_without_writing(tiny, tmp_path: Path):
    """A worker of a dead driver trains on while the resumed trial has begun."""

    def report(metrics: train.Metrics) -> train.Going:
        files.take(tmp_path, "newer")
        return "on"

    with pytest.raises(Disowned, match="was taken by newer; older must not write there any more"):
        train.fit(tiny(), tmp_path, report, segment=Segment("older"))
    found = checkpoint.newest(tmp_path)
    assert found is not None and found.name == Name(4)
    train.fit(tiny(), tmp_path, go_on, segment=Segment("newest"))
    train.fit(tiny(), tmp_path / "whole", go_on)
    assert_same_end(tmp_path, tmp_path / "whole")


def test_the_answer_to_an_epoch_leaves_the_trial_there(tiny, tmp_path: Path):
    """The last epoch is its end, whatever the answer: there is nothing to go on with."""
    segment = Segment()
    assert len(train.fit(tiny(), tmp_path, lambda metrics: "leave", segment=segment)) == 1
    assert segment.left
    again = Segment()
    assert len(train.fit(tiny(), tmp_path, lambda metrics: "leave", segment=again)) == 1, "told again, and left again"
    assert again.left
    train.fit(tiny(), tmp_path, go_on)
    answers: tuple[train.Going, ...] = ("on", "leave", "stop")
    for answer in answers:
        at_its_end, told = Segment(), list[train.Metrics]()

        def report(metrics: train.Metrics, told: list[train.Metrics] = told, answer: train.Going = answer):
            told.append(metrics)
            return answer

        assert len(train.fit(tiny(), tmp_path, report, segment=at_its_end)) == 2
        assert not at_its_end.left
        assert len(told) == (1 if answer == "stop" else 2)
    stopped = Segment()
    train.fit(tiny(), tmp_path / "stopped", lambda metrics: "stop", segment=stopped)
    assert not stopped.left


def test_epochs_without_an_evaluation_are_no_obstacle(tiny, tmp_path: Path):
    """Epochs of one step, of which only the last is evaluated: the trial can be left between any two."""
    config = tiny({"data.train_images": 16, "train.epochs": 8, "evaluation.every_epochs": 8})
    whole = train.fit(config, tmp_path / "whole", go_on)
    segment = Segment()
    segment.leave()
    assert train.fit(config, tmp_path / "left", go_on, segment=segment) == [] and segment.left
    found = checkpoint.newest(tmp_path / "left")
    assert found is not None and found.name == Name(2, timed=True)
    assert timeless_history(train.fit(config, tmp_path / "left", go_on)) == timeless_history(whole)
    assert_same_end(tmp_path / "whole", tmp_path / "left")


@pytest.mark.parametrize("value", [0, -1, "often", float("inf")])
def test_minutes_between_checkpoints(tiny, value: object):
    with pytest.raises(UserError, match=r"train\.checkpoint_minutes"):
        tiny({"train.checkpoint_minutes": value})
    assert tiny({"train.checkpoint_minutes": None}).train.checkpoint_minutes is None
    assert tiny({"train.checkpoint_minutes": 0.05}).train.checkpoint_minutes == 0.05
