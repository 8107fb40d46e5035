"""One calm live table while a search runs; plain lines where the output is no terminal."""

import time
from collections.abc import Mapping

from rich.console import Console
from rich.live import Live
from rich.table import Table

from trainables.running.messages import Position
from tuner.report.terminal import heartbeat, table_of, where
from tuner.report.viewer import Viewer
from tuner.report.wording import proposed, state_of
from tuner.runs.hints import counted
from tuner.runs.run import Run
from tuner.search.study import Metrics, Proposal, Study

QUIET = 60.0  # seconds without a line after which one says how far the search is
FRAMES = 2  # of the live table, in a second


class Progress:
    """Shows how far a search is, as a context and a `Listener` of the search.

    Args:
        run: the run.
        study: of the run.
        room: how many trials run at once.
        console: the terminal.
    """

    def __init__(self, run: Run, study: Study, room: int, console: Console):
        self.run, self.study, self.room = run, study, room
        self.console, self.viewer = console, Viewer(run, study)
        self.note, self.waiting, self.ending, self.over, self.said = "", "", "", False, time.time()
        self.positions: Mapping[str, Position] = {}
        self.live = (
            Live(
                console=console,
                refresh_per_second=FRAMES,
                get_renderable=self._render,
                redirect_stdout=False,  # standard output and errors go to the driver's log already
                redirect_stderr=False,
            )
            if console.is_terminal
            else None
        )

    def __enter__(self) -> "Progress":
        if self.live:
            self.live.start()
        else:
            spec = self.study.spec
            workers = spec.resources.workers
            each = f"{workers} worker{'' if workers == 1 else 's'} each"
            now = "" if spec.address == "local" else " for now"  # nodes may join, and may go
            size = f"{counted(spec.trials, 'trial')}, {self.room} at once{now}, {each}"
            self._print(f"search '{spec.name}': {size} -> {self.run.path}")
        return self

    def __exit__(self, *error: object) -> None:
        self.over = True  # no trial that stays on the screen is running
        if self.live:
            self.live.stop()

    def say(self, note: str) -> None:
        """Shows what is going on before the first trial."""
        self.note = note
        if not self.live:
            self._print(note)

    def ends(self, why: str) -> None:
        """Shows until the search ends why no more trials are begun."""
        self.ending = why
        if not self.live:
            self._print(why)

    def waits(self, why: str) -> None:
        """Shows why no trial can be worked on; an empty reason says that the search goes on."""
        self.waiting = f"waiting: {why}" if why else ""
        if not self.live:
            self._print(self.waiting or "going on")

    def warns(self, line: str) -> None:
        """Says what a user should know though the search goes on; the table shows it while it holds."""
        if line and not self.live:
            self._print(f"warning: {line}")

    def follow(self, positions: Mapping[str, Position]) -> None:
        """Hears how far the trials are that workers train, by their keys."""
        self.positions = positions
        self._beat()

    def trial_began(self, proposal: Proposal) -> None:
        """Nothing: the table shows it."""

    def epoch_heard(self, proposal: Proposal, metrics: Metrics) -> None:
        """Ends the note of what went on before the first epoch."""
        self.note = ""
        self._beat()

    def trial_ended(self, proposal: Proposal, error: str | None) -> None:
        """Prints a line about the trial, where there is no table."""
        if self.live:
            return
        trial = self.viewer.trial(proposal.key)
        score = "-" if trial.score is None else f"{trial.score:.4f}"
        epochs, values = f"epoch {trial.epoch}/{trial.epochs}", proposed(trial, trial.values)
        text = f"trial {trial.key}  {state_of(trial):<8} {epochs}  {score}  {values}"
        self._print(f"{text}\n  {trial.error}\n  log: {trial.log}" if trial.error else text)

    def search_ended(self) -> None:
        """Nothing: the block around the search ends the table."""

    def _print(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, highlight=False, markup=False)
        self.said = time.time()

    def _beat(self) -> None:
        if not self.live and time.time() - self.said >= QUIET:
            line = heartbeat(self.viewer.view(), self.positions)
            self._print(f"{line}; {self.waiting}" if self.waiting else line)

    def _render(self) -> Table:
        view = self.viewer.newsworthy(max(5, self.console.height // 2 - 4), self.over)
        waiting = f"waiting: {view.waits}" if self.waiting and view.waits else self.waiting  # the former is newer
        now = waiting or where(self.positions) or self.note
        return table_of(view, "\n".join(line for line in (now, self.ending) if line))
