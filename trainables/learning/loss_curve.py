"""The loss within an epoch, for curves that begin before the first epoch ends."""

from collections.abc import Sequence

import torch
from torch import Tensor

from trainables.config.durations import Length
from trainables.networks.group import Group

POINTS = 20  # of an epoch, at most


class LossCurve:
    """Means of the loss over windows of equal length, at most `POINTS` in an epoch; the last one may be shorter.

    Sums stay on the device until the epoch ends, so a step waits for nothing and exchanges nothing.

    Args:
        run: its epochs are cut into windows.
        shards: of the batch, over all workers.
        device: of the losses.
    """

    def __init__(self, run: Length, shards: int, device: torch.device):
        self.per_epoch, self.shards = run.per_epoch, shards
        self.window = max(1, -(-run.per_epoch // POINTS))
        # of this worker's shards, for each window of this epoch
        self.sums = torch.zeros(POINTS, dtype=torch.float64, device=device)
        self.points: list[list[float]] = []  # [step, loss] of ended epochs that were not taken yet

    def add(self, step: int, loss_sum: Tensor) -> None:
        """Adds the sum of this worker's losses in a step, counted from 0."""
        self.sums[step % self.per_epoch // self.window].add_(loss_sum)

    def close_epoch(self, step: int, group: Group) -> None:
        """Makes the points of the epoch that ended after `step` steps. Collective."""
        begin, sums = step - self.per_epoch, group.sum(self.sums).tolist()
        for index, first in enumerate(range(0, self.per_epoch, self.window)):
            last = min(first + self.window, self.per_epoch)
            if sums[index] == sums[index]:  # else it is not known, see `restore`
                self.points.append([float(begin + last), sums[index] / ((last - first) * self.shards)])
        self.sums.zero_()

    def take(self) -> list[list[float]]:
        """The points [step, loss] since the last call, each at the last step of its window."""
        points, self.points = self.points, []
        return points

    def restore(
        self, sums: Sequence[Sequence[float]] | None, points: Sequence[list[float]], step: int, group: Group
    ) -> None:
        """Goes on after `step` steps, on any number of workers.

        Args:
            sums: of the windows, for each worker that there was. None where the checkpoint is older than this curve:
                the windows that have begun are then not known (NaN), and get no point.
            points: of ended epochs that were not taken yet.
            step: number of steps that were made.
            group: the workers that go on.
        """
        self.points = [*points]
        if sums is None:
            begun = -(-(step % self.per_epoch) // self.window) if self.per_epoch else 0
            self.sums.zero_()
            self.sums[:begun] = torch.nan
        elif len(sums) == group.size:
            self.sums.copy_(torch.tensor(sums[group.rank], dtype=torch.float64))
        else:  # the first worker takes what all of them had
            total = torch.tensor(sums, dtype=torch.float64).sum(0)
            self.sums.copy_(total if group.rank == 0 else torch.zeros_like(total))
