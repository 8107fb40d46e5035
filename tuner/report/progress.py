"""One calm live table while a search runs; plain lines where the output is no terminal."""

import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ray import tune
from rich.console import Console
from rich.live import Live
from rich.table import Table

from tuner.fleet.claims import Position
from tuner.report.bars import about, clock_time, so_far
from tuner.report.view import counted, newsworthy, overview, proposed, state_of, table_of
from tuner.runs.run import Run
from tuner.search.study import Study

QUIET = 60.0  # seconds without a line after which one says how far the search is


def heartbeat(state: dict[str, Any], positions: Mapping[str, Position] = MappingProxyType({})) -> str:
    """One line about a search, where there is no table to look at."""
    running = [
        f"{row['key']} at epoch {row['epoch']}/{row['epochs']}" for row in state["trials"] if row["state"] == "running"
    ]
    facts = [f"{state['ended']} of {counted(state['trials_wanted'], 'trial')} ended"]
    facts += [f"running: {', '.join(running)}"] if running else []
    facts += [where(positions)] if positions else []
    facts += [] if state["best_score"] is None else [f"best {state['objective']} {state['best_score']:.4f}"]
    facts += [] if state["elapsed_s"] is None else [f"{clock_time(state['elapsed_s'])} elapsed"]
    return "; ".join(facts + ([] if state["left_s"] is None else [f"{about(state['left_s'])} left"]))


def where(positions: Mapping[str, Position]) -> str:
    """Where trials are, by their keys."""
    return ", ".join(f"{key} {so_far(*position)}" for key, position in sorted(positions.items()))


class Progress(tune.Callback):
    """A context that shows a run's state, told of changes by Tune.

    Args:
        run: the run.
        study: of it.
        room: how many trials run at once.
        console: the terminal.
    """

    def __init__(self, run: Run, study: Study, room: int, console: Console):
        self.run, self.study, self.room = run, study, room
        self.console = console
        self.note, self.waiting, self.ending, self.over, self.said = "", "", "", False, time.time()
        self.positions: Mapping[str, Position] = {}
        quiet: dict[str, Any] = {
            "redirect_stdout": False,
            "redirect_stderr": False,
        }  # they go to the driver's log already
        self.live = (
            Live(console=console, refresh_per_second=2, get_renderable=self._render, **quiet)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> "Progress":
        if self.live:
            self.live.start()
        else:
            spec = self.study.spec
            size = f"{counted(spec.trials, 'trial')}, {self.room} at once, {counted(spec.resources.workers, 'worker')} each"
            self._print(f"search '{spec.name}': {size} -> {self.run.path}")
        return self

    def __exit__(self, *error: object) -> None:
        self.over = True  # what stays on the screen is no trial that runs
        if self.live:
            self.live.stop()

    def say(self, note: str) -> None:
        """A line about what is going on before the first trial."""
        self.note = note
        if not self.live:
            self._print(note)

    def ends(self, why: str) -> None:
        """Nothing more is begun, for a reason; it is shown until the search ends."""
        self.ending = why
        if not self.live:
            self._print(why)

    def _print(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, highlight=False, markup=False)
        self.said = time.time()

    def waits(self, why: str) -> None:
        """Nothing can be worked on, for a reason; or again, where it is empty."""
        self.waiting = f"waiting: {why}" if why else ""
        if not self.live:
            self._print(self.waiting or "going on")

    def follow(self, positions: Mapping[str, Position]) -> None:
        """The trials that workers are on have come to these positions."""
        self.positions = positions
        self._beat()

    def _beat(self) -> None:
        if not self.live and time.time() - self.said >= QUIET:
            line = heartbeat(overview(self.run, self.study), self.positions)
            self._print(f"{line}; {self.waiting}" if self.waiting else line)

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        self.note = ""
        self._beat()

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        if not self.live:
            row = next(row for row in overview(self.run, self.study)["trials"] if row["key"] == trial.config["key"])
            score = "-" if row["score"] is None else f"{row['score']:.4f}"
            values = proposed(row, row["values"])
            text = f"trial {row['key']}  {state_of(row):<8} epoch {row['epoch']}/{row['epochs']}  {score}  {values}"
            if row["error"]:
                text += f"\n  {row['error']}\n  log: {row['log']}"
            self._print(text)

    def _render(self) -> Table:
        state = newsworthy(overview(self.run, self.study, self.over), max(5, self.console.height // 2 - 4))
        now = self.waiting or where(self.positions) or self.note
        return table_of(state, "\n".join(line for line in (now, self.ending) if line))

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks; a terminal stays out of it."""
        return {}
