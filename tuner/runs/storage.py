"""Decides which checkpoints of a run are deleted where its directory may hold no more.

What is decided here is a pure function of sizes and of the trials' states. `tuner.runs.storage_watch` carries it out.
"""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tuner.plan.storage import as_size

LEAST_FREE = 100 * 10**6  # bytes of free space below which a disc is warned of, whatever is written next
UNWRITTEN = 2  # times the size of an untrained encoder's checkpoint: a trained one also has its optimiser's state


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of a trial.

    Attributes:
        key: of the trial.
        files: with their sizes in bytes, oldest first.
        most: how many files of it there may be at once, a half-written one included.
        ended: whether the trial has ended; what has not ended needs its checkpoints.
        kept: whether they are kept though it has ended: it is among the best, or another trial goes on from them.
        rank: its place among the ended trials; the files of those with the lowest rank are deleted first.
    """

    key: str
    files: Sequence[tuple[Path, int]]
    most: int
    ended: bool
    kept: bool = False
    rank: tuple[bool, float] = (False, -math.inf)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(size for _, size in self.files)

    def growth(self, default: int) -> int:
        """Bytes by which its files grow until there are as many as there may be.

        Args:
            default: size of a file where there is none yet.
        """
        size = self.files[-1][1] if self.files else default
        return size * max(0, self.most - len(self.files))


@dataclass(frozen=True)
class Holding:
    """What a run holds at a moment.

    Attributes:
        total: bytes of all that is in its directory.
        trials: with their checkpoints.
        untrained: size of the untrained encoder's checkpoint; 0 where there is none.
    """

    total: int
    trials: Sequence[Checkpoints]
    untrained: int = 0

    @property
    def typical(self) -> int:
        """An estimate of the size of a trial's first checkpoint: not less than any that was written."""
        newest = [trial.files[-1][1] for trial in self.trials if trial.files]
        return max([UNWRITTEN * self.untrained, *newest])

    def growth(self, running: Collection[str], more: int) -> int:
        """Bytes by which the run grows.

        Args:
            running: keys of the trials that are being trained.
            more: how many other trials are started, with no file yet.
        """
        known = {trial.key: trial for trial in self.trials}
        most = max((trial.most for trial in self.trials), default=1)
        fresh = Checkpoints("", (), most, ended=False)
        sizes = [known.get(key, fresh).growth(self.typical) for key in running]
        return sum(sizes) + more * fresh.growth(self.typical)


def deletions(excess: int, trials: Iterable[Checkpoints]) -> list[Path]:
    """What is deleted to free `excess` bytes, in this order; less than that where nothing else may be deleted.

    First go all but the newest checkpoints of ended trials, then the newest ones, each time those of the worst trials
    first. Trials that have not ended or that are kept lose nothing.

    Args:
        excess: bytes to be freed.
        trials: all trials with checkpoints.
    """
    worst_first = sorted((trial for trial in trials if trial.ended and not trial.kept), key=lambda trial: trial.rank)
    older = [file for trial in worst_first for file in trial.files[:-1]]
    newest = [file for trial in worst_first for file in trial.files[-1:]]
    deleted = []
    for path, size in [*older, *newest]:
        if excess <= 0:
            break
        deleted.append(path)
        excess -= size
    return deleted


def free_space_warning(free: int, running: Collection[str], holding: Holding, where: Path) -> str:
    """A line where a disc has little room for the next checkpoints; empty where it has enough.

    Enough is twice the size of a checkpoint of each running trial, and at least `LEAST_FREE`.

    Args:
        free: bytes that the disc has left.
        running: keys of the trials that are being trained.
        holding: what the run holds.
        where: the run's directory.
    """
    sizes = {trial.key: trial.files[-1][1] for trial in holding.trials if trial.files}
    next_ones = sum(sizes.get(key, holding.typical) for key in running)
    if free >= max(LEAST_FREE, 2 * next_ones):
        return ""
    need = f"the next checkpoints of the running trials take {as_size(next_ones)}" if running else "make room there"
    return f"the disc of {where} has {as_size(free)} left; {need}"
