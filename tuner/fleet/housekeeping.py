"""Keeps a search within `storage.limit` while it runs, and warns of a disc with little room."""

import math
import threading
import time
from collections.abc import Callable, Collection, Mapping

from optuna.trial import TrialState

from tuner.fleet.wishes import Search
from tuner.runs.run import EXPORTED, Run
from tuner.runs.storage_watch import KnownTrial, StorageWatch
from tuner.search.study import Study, key_of

LOOK = 5.0  # seconds between two looks at what the run holds
UNPINNED = 2  # files of a trial beside `keep_checkpoints`: one by time, and one that is being written


class Housekeeping:
    """Decides by what a run holds whether trials may be started or trained, and warns of its disc.

    Args:
        run: which this process holds.
        close: called with the reason when no trial may be trained any more, and with "" when that is over.
        warn: called with a line when the disc has little room or no more trials are started, and with "" when that is
            over.

    Attributes:
        closed: why no trial may be trained now, with the sizes of the last look; empty where trials may go on.
    """

    def __init__(self, run: Run, close: Callable[[str], None], warn: Callable[[str], None]):
        self._run, self._storage, self._close, self._warn = run, StorageWatch(run), close, warn
        self.closed, self._held_back, self._warned = "", "", ""
        self._limit: str | None = None
        self._seen: tuple[int, str | None] | None = None  # the search's moves and its limit at the last look
        self._unseen, self._again = "", 0.0  # why the last look failed, and when the next start may take another one
        self._turn = threading.Lock()  # `look` and `admits` are called by different threads

    @property
    def warnings(self) -> tuple[str, ...]:
        """Lines that a user should know now. Why a closed search waits is said by `closed`, and not twice."""
        return tuple(filter(None, (self._storage.warning, "" if self.closed else self._held_back)))

    def look(self, search: Search) -> None:
        """Takes a look at the run of a search, and deletes what its limit asks for.

        Raises:
            OSError: the run cannot be measured, such as on a network disc that is away.
        """
        with search.turn():
            study, running = search.study, search.running
            limit = study.spec.storage.limit
            known = known_trials(study, None if limit is not None else running)
            more = study.unasked > 0 or len(search.unfinished) > len(running)
            seen = search.moves, limit
        self._look(limit, known, running, more)
        self._seen, self._unseen, self._again = seen, "", 0.0

    def look_alone(self, key: str, keep_checkpoints: int) -> None:
        """Takes a look at a full run, which has no limit: only the free space of its disc is watched.

        Args:
            key: of its trial.
            keep_checkpoints: of the trial.
        """
        known = KnownTrial(keep_checkpoints + UNPINNED, ended=False, kept=True, rank=(False, -math.inf))
        self._look(None, {key: known}, [key], more=False)

    def _look(self, limit: str | None, known: Mapping[str, KnownTrial], running: Collection[str], more: bool) -> None:
        with self._turn:
            self._storage.look(limit, known, running, more)
            self._set_closed(self._storage.full)
            if not more or limit != self._limit or not self._storage.refuses(running):
                self._held_back = ""
            self._limit = limit
            self._tell()

    def admits(self, search: Search) -> bool:
        """Whether another trial may be started. Where none runs one may, but is not trained: Tune needs one to wait.

        With a limit another look is taken where a trial has started or ended since the last one: a short trial may have
        done both, and what it wrote was in no look.
        """
        with search.turn():
            running, limit = search.running, search.study.spec.storage.limit
            stale = limit is not None and self._seen != (search.moves, limit)
        if stale and time.monotonic() > self._again:
            try:
                self.look(search)
            except OSError as error:
                self._again = time.monotonic() + LOOK
                self._unseen = f"what {self._run.path} holds cannot be measured ({error.strerror})"
        with self._turn:
            why = self._unseen or self._storage.refuses(running)
            if why and not running:
                self._set_closed(why)
                return True
            self._held_back = f"no more trials start: {why}" if why else ""
            self._tell()
            return not why

    def _set_closed(self, why: str) -> None:
        before, self.closed = self.closed, why
        if bool(why) != bool(before):  # `close` is not called for sizes in its text, which may change at any look
            self._storage.full = why
            self._close(why)

    def _tell(self) -> None:
        """Says the first warning, when it is another one than before."""
        if (line := next(iter(self.warnings), "")) != self._warned:
            self._warned = line
            self._warn(line)


def known_trials(study: Study, keys: Collection[str] | None = None) -> dict[str, KnownTrial]:
    """What is known of trials, for what may be deleted of them: the best ones, and what has not ended, need theirs.

    Args:
        study: of the run.
        keys: of the trials; None: of all.
    """
    spec, best = study.spec, {key_of(trial) for trial in study.best(EXPORTED)}
    sign = 1.0 if spec.objective.mode == "max" else -1.0
    known = {}
    for trial in study.trials() if keys is None else map(study.trial, keys):
        key, score = key_of(trial), sign * trial.values[0] if trial.values else float("-inf")
        keep = trial.user_attrs["values"].get("train.keep_checkpoints", spec.trial.train.keep_checkpoints)
        rank = trial.state == TrialState.COMPLETE, score
        known[key] = KnownTrial(keep + UNPINNED, trial.state.is_finished(), key in best, rank)
    return known
