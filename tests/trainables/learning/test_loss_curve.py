"""The loss within an epoch: means over windows, after a resume, from old checkpoints, on any number of workers."""

from pathlib import Path

import pytest
import torch

from tests.trainables.running.test_fit_resume import Killed, go_on, kill_at
from trainables.config.durations import Length
from trainables.learning.learner import Learner
from trainables.learning.loss_curve import POINTS, LossCurve
from trainables.networks.group import Group
from trainables.running import checkpoint
from trainables.running import fit as train


def losses_of(config, monkeypatch: pytest.MonkeyPatch, folder: Path) -> tuple[list[float], list[train.Metrics]]:
    """The loss of each step, as `step` returns it, and the metric history of the same trial."""
    steps, take = [], Learner.step

    def stepping(self: Learner, batches):
        steps.append(take(self, batches).item() / self.shards.total)
        return torch.zeros(())

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", stepping)
        history = train.fit(config, folder, go_on)
    return steps, history


def test_points_are_means_over_windows_of_steps(tiny, tmp_path: Path, monkeypatch):
    """50 steps an epoch: windows of three steps, the last of two; their mean over an epoch is its loss."""
    config = tiny({"data.train_images": 401, "train.batch_size": 8, "train.shard_size": 8, "train.checkpoint_steps": 7})
    steps, history = losses_of(config, monkeypatch, tmp_path)
    assert len(steps) == 100
    for epoch, metrics in enumerate(history):
        ends = [*range(3, 50, 3), 50]
        assert [step for step, _ in metrics["loss_curve"]] == [50 * epoch + end for end in ends] and len(ends) <= POINTS
        for end, (_, loss) in zip(ends, metrics["loss_curve"], strict=True):
            window = steps[50 * epoch + (end - 1) // 3 * 3 : 50 * epoch + end]
            assert loss == pytest.approx(sum(window) / len(window), rel=1e-12)
        assert metrics["loss"] == pytest.approx(sum(steps[50 * epoch : 50 * epoch + 50]) / 50, rel=1e-12)


@pytest.mark.parametrize("per_epoch", [1, 2, 19, 20, 21, 40, 41, 399, 5000])
def test_an_epoch_has_at_most_so_many_points_and_the_last_at_its_end(per_epoch: int):
    curve = LossCurve(Length(3 * per_epoch, per_epoch), 2, torch.device("cpu"))
    for step in range(per_epoch, 2 * per_epoch):
        curve.add(step, torch.tensor(2.0 * (step - per_epoch), dtype=torch.float64))
    curve.close_epoch(2 * per_epoch, Group())
    points = curve.take()
    assert min(per_epoch, POINTS // 2) <= len(points) <= POINTS and points[-1][0] == 2 * per_epoch
    begins = [per_epoch, *(int(step) for step, _ in points[:-1])]
    assert [loss for _, loss in points] == [
        pytest.approx((begin + end - 1) / 2 - per_epoch) for begin, (end, _) in zip(begins, points, strict=True)
    ]
    assert curve.take() == []


def test_epochs_that_are_not_evaluated_keep_their_points(tiny, tmp_path: Path):
    """Killed in the third epoch: those of the first two come with the report after the fourth, as without a kill."""
    config = tiny({"train.epochs": 4, "evaluation.every_epochs": 4, "train.checkpoint_steps": 3})
    (whole,) = train.fit(config, tmp_path / "whole", go_on)
    assert [step for step, _ in whole["loss_curve"]] == [*range(1, 17)]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill_at(11, patch)
        train.fit(config, tmp_path / "killed", go_on)
    (resumed,) = train.fit(config, tmp_path / "killed", go_on)
    assert resumed["loss_curve"] == whole["loss_curve"]


def test_a_checkpoint_without_a_curve_goes_on_and_leaves_out_what_is_not_known(tiny, tmp_path: Path):
    """Such as an earlier version wrote: the windows that had begun get no point, all else is as it was."""
    config = tiny({"train.checkpoint_steps": 3, "data.train_images": 96})
    whole = train.fit(config, tmp_path / "whole", go_on)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill_at(9, patch)
        train.fit(config, tmp_path / "old", go_on)
    left = checkpoint.newest(tmp_path / "old")
    assert left is not None and left.values["learner"]["step"] == 9
    old = {key: value for key, value in left.values["learner"].items() if key not in ("loss_windows", "loss_points")}
    history = [
        {key: value for key, value in metrics.items() if key != "loss_curve"} for metrics in left.values["history"]
    ]
    checkpoint.write(tmp_path / "old", 9, left.tensors, {**left.values, "learner": old, "history": history}, 2)
    first, second = train.fit(config, tmp_path / "old", go_on)
    assert "loss_curve" not in first and first["loss"] == whole[0]["loss"] and second["loss"] == whole[1]["loss"]
    assert second["loss_curve"] == whole[1]["loss_curve"][3:]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_windows_of_two_workers_go_on_on_any_number(tiny, together, workers: int):
    run, losses = Length(50, 50), torch.arange(50, dtype=torch.float64)
    before, after = ([LossCurve(run, 4, torch.device("cpu")) for _ in range(count)] for count in (2, workers))
    for step in range(25):
        for rank, curve in enumerate(before):
            curve.add(step, losses[step] * (1 + rank))
    sums = [curve.sums.tolist() for curve in before]

    def act(rank: int) -> list[list[float]]:
        curve, group = after[rank], Group(rank, workers)
        curve.restore(sums, [], 25, group)
        for step in range(25, 50):
            curve.add(step, losses[step] * 3 / workers)
        curve.close_epoch(50, group)
        return curve.take()

    told = together([lambda rank=rank: act(rank) for rank in range(workers)])
    expected = [[min(end, 50), losses[end - 3 : end].mean().item() * 3 / 4] for end in range(3, 52, 3)]
    for points in told:
        assert torch.tensor(points, dtype=torch.float64).allclose(
            torch.tensor(expected, dtype=torch.float64), rtol=1e-12
        )
