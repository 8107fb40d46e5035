"""Measures and deletes: keeps a run within `storage.limit`, and watches the free space of its disc.

What is deleted is decided in `tuner.runs.storage`.
"""

import logging
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainables.running.checkpoint_files import PIN
from trainables.running.checkpoint_header import PATTERN
from tuner.plan.storage import as_size, bytes_of
from tuner.runs.evaluated import remove_abandoned
from tuner.runs.hints import command
from tuner.runs.run import BASELINE, Run, note_deleted
from tuner.runs.storage import Checkpoints, Holding, deletions, free_space_warning

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class KnownTrial:
    """What has to be known of a trial that was asked.

    Attributes:
        most: how many files of it there may be at once, a half-written one included.
        ended: whether it has ended.
        kept: whether its checkpoints are kept though it has ended.
        rank: its place among the ended trials; the files of those with the lowest rank are deleted first.
    """

    most: int
    ended: bool
    kept: bool
    rank: tuple[bool, float]


class StorageWatch:
    """Looks at what a run holds, and deletes checkpoints of ended trials where it holds too much.

    What evaluations that were killed have left in the run is removed when the watch is made.

    Args:
        run: which this process holds.

    Attributes:
        full: why nothing may be trained now: the run holds more than it may, and nothing more may be deleted. Empty
            where trials may go on.
        warning: a line on a disc with little room; empty where it has enough.
    """

    def __init__(self, run: Run):
        self.run = run
        self.full, self.warning = "", ""
        self._holding = Holding(0, ())
        self._limit: str | None = None
        for folder in run.path.glob("trials/*"):
            remove_abandoned(folder)

    def look(self, limit: str | None, trials: Mapping[str, KnownTrial], running: Collection[str], more: bool) -> None:
        """Measures the run, deletes what its limit asks for, and looks at the free space of its disc.

        Args:
            limit: `storage.limit` of the search.
            trials: all that were asked, by key.
            running: keys of those that are being trained.
            more: whether another trial may be started.
        """
        if limit is None:  # only the trials that are being trained are looked at: a run may have many files
            trials = {key: trials[key] for key in running if key in trials}
        holding = measured(self.run, trials, whole=limit is not None)
        if limit is not None:
            excess = holding.total + holding.growth(running, 1 if more else 0) - bytes_of(limit)
            if deleted := deletions(excess, holding.trials):
                self._delete(deleted, limit)
                holding = measured(self.run, trials)
        self._limit, self._holding = limit, holding
        full = limit is not None and holding.total + (holding.growth(running, 0) if self.full else 0) > bytes_of(limit)
        self.full = self._why(running, 0) if full else ""
        free = shutil.disk_usage(self.run.path).free
        self.warning = free_space_warning(free, running, holding, self.run.path)

    def refuses(self, running: Collection[str]) -> str:
        """Why no other trial may be started now, by the last look; empty where one may.

        Args:
            running: keys of the trials that are being trained.
        """
        limit = self._limit
        if limit is None or self._holding.total + self._holding.growth(running, 1) <= bytes_of(limit):
            return ""
        return self._why(running, 1)

    def _why(self, running: Collection[str], more: int) -> str:
        """Why trials may not be trained, or started, and what a user can do about it."""
        limit = self._limit
        assert limit is not None
        holds = f"storage.limit = {limit}: the run holds {as_size(self._holding.total)}"
        needs = f"its trials may still write {as_size(self._holding.growth(running, more))}"
        enough = self._holding.total + self._holding.growth(running, 1)
        higher = as_size(max(2 * bytes_of(limit), 1.1 * enough))
        raised = command("tuner", "set", self.run.path, f"storage.limit={higher}")
        rule = "nothing more may be deleted"
        return f"{holds}, {needs}, and {rule}; make room in {self.run.path}, or raise it: {raised}"

    def _delete(self, files: Sequence[Path], limit: str) -> None:
        """Deletes checkpoints; a trial that loses its last one keeps a note of the reason."""
        for file in files:
            if len(list(file.parent.glob(PATTERN))) == 1:
                note_deleted(file.parent, f"deleted for storage.limit = {limit}")
            try:
                file.unlink(missing_ok=True)
            except OSError as error:
                log.warning("%s: cannot be deleted (%s)", file, error)
        log.info("storage.limit = %s: deleted %s", limit, ", ".join(map(str, files)))


def _unless_gone(error: OSError) -> None:
    """Raises what a folder cannot be listed for, unless it was deleted meanwhile."""
    if not isinstance(error, FileNotFoundError):
        raise error


def measured(run: Run, trials: Mapping[str, KnownTrial], whole: bool = True) -> Holding:
    """What a run holds now.

    Args:
        run: the run.
        trials: by key.
        whole: whether all files of the run are measured, or only those in the folders of `trials`.

    Raises:
        OSError: a folder cannot be listed.
    """
    total, files = 0, dict[str, list[tuple[Path, int]]]()
    linked = set[tuple[int, int]]()  # files of several names, such as a checkpoint that is evaluated, take room once
    tops = [run.path] if whole else [run.trial_folder(key) for key in trials]
    for folder, _, names in (entry for top in tops for entry in os.walk(top, onerror=_unless_gone)):
        pinned = {name.partition(PIN)[0] for name in names if PIN in name}
        for name in names:
            path = Path(folder, name)
            try:
                facts = path.lstat()
            except OSError:  # deleted between the two calls
                continue
            size = max(facts.st_size, 512 * facts.st_blocks)  # what it takes of the disc, in whole blocks
            file = facts.st_dev, facts.st_ino
            total += 0 if file in linked else size
            if facts.st_nlink > 1:
                linked.add(file)
            if path.match(PATTERN) and name not in pinned and path.parent.parent == run.path / "trials":
                files.setdefault(path.parent.name, []).append((path, size))
    untrained = files.pop(BASELINE, [])
    known = [
        Checkpoints(key, sorted(files.get(key, ())), trial.most, trial.ended, trial.kept, trial.rank)
        for key, trial in trials.items()
    ]
    return Holding(total, known, max((size for _, size in untrained), default=0))
