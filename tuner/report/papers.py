"""Prints the papers' tables: all of them with what was run here, and one beside the runs of it.

`tuner.report.beside` compares a run with its paper; `tuner.plan.papers` finds the files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from trainables.config import trial as c
from trainables.config.errors import UserError
from tuner.plan import papers
from tuner.plan.spec import SearchSpec, parse
from tuner.report import certainty
from tuner.report.beside import Beside
from tuner.report.points import plus_minus
from tuner.report.terminal import titled
from tuner.report.viewer import view_of
from tuner.runs.hints import shown
from tuner.runs.run import Run
from tuner.search.study import Study

INFERRED = "~: inferred from what the paper says, not printed"


@dataclass(frozen=True)
class TableRun:
    """A run of a table.

    Attributes:
        path: its directory.
        done: complete trials.
        trials: that it has in all.
        epochs: of a trial.
        of_epochs: of a trial in the table's file.
        size: its data and its network.
    """

    path: Path
    done: int
    trials: int
    epochs: int
    of_epochs: int
    size: str

    @property
    def text(self) -> str:
        """All of it on a line."""
        epochs = (
            f"{self.epochs} epochs" if self.epochs == self.of_epochs else f"{self.epochs} of {self.of_epochs} epochs"
        )
        return f"{shown(self.path)}: {self.done}/{self.trials} trials, {epochs}, {self.size}"


@dataclass(frozen=True)
class TableView:
    """A table of a paper, and the runs of it.

    Attributes:
        name: of its file.
        title: the paper and its table.
        data: that it needs.
        trials: how many it has.
        gpu_hours: of all of it, an estimate.
        gpu: that the hours are of.
        runs: found.
    """

    name: str
    title: str
    data: str
    trials: int
    gpu_hours: float | None
    gpu: str | None
    runs: tuple[TableRun, ...]


def found(folder: Path, tables: Mapping[str, SearchSpec]) -> dict[str, list[tuple[Run, Study]]]:
    """The runs of tables in a folder, which may be a run itself; those of each table in the order of their names.

    A run belongs to the table whose title its section `paper` has, or, without such a section, to that of its name. A
    run that cannot be read is passed over.

    Args:
        folder: of the runs.
        tables: by the names of their files.
    """
    files = {_mark(spec): name for name, spec in tables.items()}
    runs: dict[str, list[tuple[Run, Study]]] = {name: [] for name in tables}
    for manifest in sorted([*folder.glob("manifest.json"), *folder.glob("*/manifest.json")]):
        try:
            run = Run(manifest.parent)
            spec = parse(run.spec)
            if run.kind == "search" and spec.table and (name := files.get(_mark(spec))):
                run.check_journal()
                runs[name].append((run, Study(run.journal, spec, None, reading=True)))
        except (UserError, OSError):
            continue
    return runs


def _mark(spec: SearchSpec) -> tuple[str, str]:
    """What a run shares with the table that it came from, whatever was set at its launch."""
    return ("title", spec.paper.title) if spec.paper else ("name", spec.name)


def views(tables: Mapping[str, SearchSpec], runs: Mapping[str, Sequence[tuple[Run, Study]]]) -> list[TableView]:
    """Tables, with the runs that were found of each."""
    made = []
    for name, spec in tables.items():
        paper = spec.paper
        made.append(
            TableView(
                name=name,
                title=paper.title if paper else papers.header(name)[0].rstrip("."),
                data=paper.data if paper else spec.trial.data.name,
                trials=spec.trials,
                gpu_hours=paper.gpu_hours if paper else None,
                gpu=paper.gpu if paper else None,
                runs=tuple(_table_run(run, study, spec) for run, study in runs[name]),
            )
        )
    return made


def _table_run(run: Run, study: Study, table: SearchSpec) -> TableRun:
    view, trial = view_of(run, study), study.spec.trial
    done = sum(row.state == "complete" for row in view.trials)
    return TableRun(run.path, done, view.trials_wanted, view.epochs, table.trial.train.epochs, size_of(trial))


def size_of(trial: c.TrialConfig) -> str:
    """The data and the network of a trial in a few words."""
    data, encoder = trial.data, trial.encoder
    facts = [data.name]
    facts += [] if data.train_images is None else [f"{data.train_images:,} images"]
    facts += [] if data.image_size is None else [f"{data.image_size} x {data.image_size}"]
    return ", ".join([*facts, encoder.name + (f" of width {encoder.width}" if encoder.width else "")])


def as_json(tables: Sequence[TableView]) -> list[dict[str, Any]]:
    """What `tuner papers --json` prints."""
    return [{**vars(table), "runs": [{**vars(run), "path": str(run.path)} for run in table.runs]} for table in tables]


def listing(tables: Sequence[TableView]) -> Table:
    """The list of all tables."""
    made = titled("tables of the papers")
    widest = max(len(table.name) for table in tables)
    for name in ("table", "what it is", "data", "trials", "GPU hours"):
        right = name in ("trials", "GPU hours")
        made.add_column(name, justify="right" if right else "left", min_width=widest if name == "table" else None)
    for table in tables:
        hours = "" if table.gpu_hours is None else f"{table.gpu_hours:,.0f} ({table.gpu})"
        made.add_row(*map(Text, (table.name, table.title, table.data, f"{table.trials}", hours)))
    return made


def run_lines(tables: Sequence[TableView], folder: Path) -> list[str]:
    """What was run of each table at which size, and how to look closer."""
    lines = [f"{table.name}: {run.text}" for table in tables for run in table.runs]
    return [
        *(lines or [f"no run of them in {shown(folder)}"]),
        "tuner papers NAME shows a table and its runs beside the paper; --toy runs it in minutes, without its data",
    ]


def printed(spec: SearchSpec) -> Table | None:
    """The paper's numbers for a table as it has them, with a mark at those that are inferred; None without numbers."""
    paper = spec.paper
    if paper is None or not paper.reported:
        return None
    table = titled("the paper", [INFERRED] if any(paper.inferred.values()) else (), "row")
    for metric in paper.reported:
        table.add_column(Text(metric), justify="right")
    for label in spec.table:
        numbers = [_number(rows.get(label), "g", paper.infers(name, label)) for name, rows in paper.reported.items()]
        table.add_row(*map(Text, [label, *numbers]))
    return table


def _number(number: float | None, form: str, inferred: bool) -> str:
    """A number of a paper, in a format; "" for None."""
    return "" if number is None else f"{'~' if inferred else ''}{number:{form}}"


def tables_of(beside: Beside | None) -> list[Table]:
    """The table that shows ours beside the paper's; none where there is nothing to show."""
    if beside is None or not beside.compared:
        return []
    table = titled(f"beside {beside.title}", _notes(beside), "row")
    cells = [
        (
            row.ours.point,
            plus_minus(row.ours.mean, row.ours.sd),
            certainty.shown(row.ours.interval),
            str(len(row.ours.scores)),
            _number(row.paper, ".4f", row.inferred),
        )
        for row in beside.rows
    ]
    names = (f"{beside.metric}, {beside.split}", "95 %", "seeds", f"the paper's {beside.reported}")
    for name, column in zip(names, list(zip(*cells, strict=True))[1:], strict=True):
        table.add_column(Text(name), justify="right", min_width=max(map(len, column)))
    for row in cells:
        table.add_row(*map(Text, row))
    return [table]


def _notes(beside: Beside) -> list[str]:
    """The rank correlation, and what is not as in the paper."""
    notes = [rank_line(beside)]
    if beside.metric != beside.reported:
        notes.append(f"no trial has {beside.reported} yet; tuner evaluate scores a trial by its protocol")
    elif beside.split == "validation":
        notes.append("ours is of validation images, the paper's of test images; tuner evaluate scores test images")
    notes += [INFERRED] if any(row.inferred for row in beside.rows) else []
    if beside.otherwise:
        notes.append(f"test images were not scored as the table says: {', '.join(beside.otherwise)}")
    return notes


def rank_line(beside: Beside) -> str:
    """How alike the orders of the rows are."""
    if beside.rank is None:
        few = "fewer than three rows" if beside.compared < 3 else "equal numbers"
        return f"no rank correlation with the paper's rows: {few} to compare ({beside.compared})"
    rank = beside.rank
    text = f"Spearman's rank correlation with the paper: {rank.rho:+.3f} over {rank.rows} rows"
    if rank.interval is not None:
        low, high = rank.interval
        text += f"; 95 % interval {low:+.2f} to {high:+.2f} (Fisher)"
    else:
        text += "; no interval: " + ("fewer than four rows" if abs(rank.rho) < 1 else "there is none at -1 and 1")
    if len(rank.of_seeds) > 1:
        text += f"; of each of {len(rank.of_seeds)} seeds alone {min(rank.of_seeds):+.2f} to {max(rank.of_seeds):+.2f}"
    return text
