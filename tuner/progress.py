"""One calm live table while a search runs; plain lines where the output is no terminal."""

import time
from typing import Any

from ray import tune
from rich.console import Console
from rich.live import Live
from rich.table import Table

from tuner.report import newsworthy, overview, proposed, state_of, table_of
from tuner.runs import Run
from tuner.study import Study


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
        self.began, self.note, self.waiting = time.time(), "", ""
        quiet: dict[str, Any] = {"redirect_stdout": False, "redirect_stderr": False}  # they go to the driver's log already
        self.live = Live(console=console, refresh_per_second=2, get_renderable=self._render, **quiet) if console.is_terminal else None

    def __enter__(self) -> "Progress":
        if self.live:
            self.live.start()
        else:
            spec = self.study.spec
            text = (
                f"search '{spec.name}': {spec.trials} trials, {self.room} at once, {spec.resources.workers} workers each -> {self.run.path}"
            )
            self.console.print(text, soft_wrap=True, highlight=False, markup=False)
        return self

    def __exit__(self, *error: object) -> None:
        if self.live:
            self.live.stop()

    def say(self, note: str) -> None:
        """A line about what is going on before the first trial."""
        self.note = note
        if not self.live:
            self.console.print(note, highlight=False, markup=False)

    def waits(self, why: str) -> None:
        """Nothing can be worked on, for a reason; or again, where it is empty."""
        self.waiting = f"waiting: {why}" if why else ""
        if not self.live:
            self.console.print(self.waiting or "going on", soft_wrap=True, highlight=False, markup=False)

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        self.note = ""

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        if not self.live:
            row = next(row for row in overview(self.run, self.study)["trials"] if row["key"] == trial.config["key"])
            score = "-" if row["score"] is None else f"{row['score']:.4f}"
            values = proposed(row, row["values"])
            text = f"trial {row['key']}  {state_of(row):<8} epoch {row['epoch']}/{row['epochs']}  {score}  {values}"
            if row["error"]:
                text += f"\n  {row['error']}\n  log: {row['log']}"
            self.console.print(text, soft_wrap=True, highlight=False, markup=False)

    def _render(self) -> Table:
        elapsed = int(time.time() - self.began)
        state = newsworthy(overview(self.run, self.study), max(5, self.console.height // 2 - 4))
        return table_of(state, f"{elapsed // 60}:{elapsed % 60:02d}  {self.waiting or self.note}")

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks; a terminal stays out of it."""
        return {}
