"""Progress of work that takes longer than a moment: bars on a terminal, calm plain lines elsewhere."""

import sys
import time
from collections.abc import Callable
from typing import TextIO

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from tuner.report.lasting import LastingConsole

QUIET = 5.0  # seconds


class Bars:
    """A context that shows how far a piece of work is.

    Args:
        file: where they are shown; by default standard error, because standard output may belong to results.
        clock: seconds, for plain lines.
        quiet: seconds between two plain lines, and before the first.
    """

    def __init__(self, file: TextIO | None = None, clock: Callable[[], float] = time.monotonic, quiet: float = QUIET):
        self.console = LastingConsole(file=file or sys.stderr, highlight=False, markup=False, soft_wrap=True)
        self._clock, self._quiet = clock, quiet
        self._bars = self._made() if self.console.is_terminal else None
        self._task: TaskID | None = None
        self._what, self._began, self._said = "", clock(), clock()

    def _made(self) -> Progress:
        columns: list[ProgressColumn] = [SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn()]
        columns += [MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()]
        return Progress(*columns, console=self.console, transient=True, redirect_stdout=False, redirect_stderr=False)

    def __enter__(self) -> "Bars":
        if self._bars:
            self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bars:
            self._bars.stop()

    def say(self, line: str) -> None:
        """Prints a line that stays."""
        self.console.print(line)
        self._said = self._clock()

    def tell(self, what: str, done: int, total: int | None = None) -> None:
        """Shows how many steps of something are done; it is a `trainables.data.progress.Listener`."""
        if what != self._what or done == 0:
            self._what, self._began = what, self._clock()
            if self._bars:
                if self._task is not None:
                    self._bars.remove_task(self._task)
                self._task = self._bars.add_task(what, total=total)
        if self._bars and self._task is not None:
            self._bars.update(self._task, completed=done)
        elif self._clock() - self._said >= self._quiet:
            self.say(_line(what, done, total, self._clock() - self._began))


def _line(what: str, done: int, total: int | None, elapsed: float) -> str:
    left = f", {about(elapsed / done * (total - done))} left" if total and 0 < done < total else ""
    return so_far(what, done, total) + left


def so_far(what: str, done: int, total: int | None) -> str:
    """How many steps of something are done: "steps of epoch 3: 12 of 40"."""
    return f"{what}: {done}" + ("" if total is None else f" of {total}")


def about(seconds: float) -> str:
    """A length of time, as rough as an estimate is: "about 40 s", "about 12 min", "about 3.5 h"."""
    if seconds < 100:
        return f"about {max(1, round(seconds))} s"
    return f"about {round(seconds / 60)} min" if seconds < 100 * 60 else f"about {seconds / 3600:.1f} h"


def clock_time(seconds: float) -> str:
    """Time that has gone by: "0:42", "12:05", "3:07:59"."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
