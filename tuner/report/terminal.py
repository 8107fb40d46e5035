"""What the terminal shows of a run: its tables and their captions, and plain lines where no table can be drawn."""

import os
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from trainables.running.messages import Position
from tuner.report import certainty
from tuner.report.bars import about, clock_time, so_far
from tuner.report.points import PointView, plus_minus, star
from tuner.report.view import RunView, TrialView
from tuner.report.wording import no_gain, of_images, proposed, state_of
from tuner.runs.hints import counted


def console(file: TextIO | None = None) -> Console:
    """Where tables go: as wide as the terminal, and 120 columns in a pipe, unless COLUMNS says otherwise."""
    piped = not (file or sys.stdout).isatty() and "COLUMNS" not in os.environ
    return Console(file=file, width=120 if piped else None)


def titled(title: str, notes: Sequence[str] = (), first: str | None = None) -> Table:
    """A table without rows, with its title and its notes at the left.

    Both are shown as they are: what stands in brackets, such as in the label of a point, is no markup of Rich.

    Args:
        title: stands above the table.
        notes: stand below it, a line each.
        first: the name of its first column; by default it has no column yet.
    """
    return Table(
        *([] if first is None else [first]),
        title=Text(title, "table.title"),
        caption=Text("\n".join(notes), "table.caption") if notes else None,
        title_justify="left",
        caption_justify="left",
    )


def table_of(run: RunView, title: str = "") -> Table:
    """The table of a run: a row for each trial of the view."""
    starred = None if no_gain(run) or run.points else run.best
    table = titled(f"{run.name}  {title}", _captions(run))
    for name in ("trial", "state", "epoch", run.objective, "proposed"):
        table.add_column(Text(name), justify="right" if name in ("epoch", run.objective) else "left")
    keys = {key for trial in run.trials for key in trial.values}
    telling = {key for key in keys if _differs(key, run.trials)}
    for trial in run.trials:
        score = "" if trial.score is None else f"{trial.score:.4f}{' *' if trial.key == starred else ''}"
        text = f"{trial.error} (log: {trial.log})" if trial.error else proposed(trial, telling)
        table.add_row(trial.key, state_of(trial), f"{trial.epoch}/{trial.epochs}", score, Text(text))
    return table


def _captions(run: RunView) -> list[str]:
    """The lines below the table of a run."""
    facts = [f"{run.ended} of {counted(run.trials_wanted, 'trial')}"]
    facts += [slots_up(run)] if run.slots else []
    facts += [] if run.validation_images is None else [of_images(run.validation_images)]
    facts += [] if run.untrained is None else [f"untrained {run.untrained:.4f}"]
    facts += [] if run.elapsed_s is None else [f"{clock_time(run.elapsed_s)} elapsed"]
    facts += [] if run.left_s is None else [f"{about(run.left_s)} left"]
    if run.gap_median_s is not None:
        gap = f"median gap between two trials on a slot {run.gap_median_s:.2f} s"
        facts.append(f"{gap} ({counted(run.gaps, 'gap')})")
    lines = ["   ".join(facts), *(f"warning: {warning}" for warning in run.warnings)]
    if run.best is None or run.points:
        return lines
    if doubt := no_gain(run):
        return [*lines, f"no star: trial {run.best} is the best, but {doubt}"]
    interval = f", 95 % {certainty.shown(run.best_interval)}" if run.best_interval else ""
    return [*lines, f"* the best complete trial{interval}"]


def _differs(key: str, trials: Sequence[TrialView]) -> bool:
    """Whether trials that have a key have different values of it; a single trial shows all its keys."""
    return len(trials) == 1 or len({repr(trial.values[key]) for trial in trials if key in trial.values}) > 1


def points_table(run: RunView) -> Table:
    """The table of a run's points, as papers print it, with intervals."""
    points = run.points or ()
    starred, why = star(points, run.seeds, run.objective, run.mode, run.validation_images, run.untrained)
    images = "validation" if run.validation_images is None else f"{run.validation_images} validation images"
    title = f"{run.objective} on {images}, mean ± standard deviation over seeds"
    table = titled(title, [why] if why else (), "point")
    cells = [_cells(point, starred, run.seeds) for point in points]
    if run.untrained is not None:
        untrained = f"{run.untrained:.4f}", certainty.shown(run.untrained_interval)
        cells.append(("untrained encoder", *untrained, "1", "", ""))
    names = (run.objective, "95 %", "seeds", f"over '{points[0].point}'", "95 %")
    for name, column in zip(names, list(zip(*cells, strict=True))[1:], strict=True):
        width = max(map(len, column))  # labels are folded, numbers are not
        table.add_column(Text(name), justify="right", min_width=width)
    for row in cells:
        table.add_row(*map(Text, row))
    return table


def _cells(point: PointView, starred: str | None, seeds: int) -> tuple[str, str, str, str, str, str]:
    return (
        point.point,
        plus_minus(point.mean, point.sd) + (" *" if point.point == starred else ""),
        certainty.shown(point.interval),
        f"{len(point.scores)}/{seeds}",
        plus_minus(point.difference, point.difference_sd, "+"),
        certainty.shown(point.difference_interval, "+"),
    )


def heartbeat(run: RunView, positions: Mapping[str, Position] = MappingProxyType({})) -> str:
    """One line about a search, where there is no table to look at.

    Args:
        run: the view of the run.
        positions: how far the trials are that workers train, by their keys.
    """
    running = [
        f"{trial.key} at epoch {trial.epoch}/{trial.epochs}" + (f" on {trial.workers}" if trial.workers else "")
        for trial in run.trials
        if trial.state == "running"
    ]
    facts = [f"{run.ended} of {counted(run.trials_wanted, 'trial')} ended"]
    facts += [slots_up(run)] if run.slots else []
    facts += [f"running: {', '.join(running)}"] if running else []
    facts += [where(positions)] if positions else []
    facts += [] if run.best_score is None else [f"best {run.objective} {run.best_score:.4f}"]
    facts += [] if run.elapsed_s is None else [f"{clock_time(run.elapsed_s)} elapsed"]
    return "; ".join(facts + ([] if run.left_s is None else [f"{about(run.left_s)} left"]))


def slots_up(run: RunView) -> str:
    """How many slots are up, and on how many nodes."""
    return f"{counted(len(run.slots), 'slot')} up on {counted(run.nodes, 'node')}"


def where(positions: Mapping[str, Position]) -> str:
    """How far trials are within their epochs, as a text; `positions` are by key."""
    return ", ".join(f"{key} {so_far(*position)}" for key, position in sorted(positions.items()))
