"""Prints the papers' tables: all of them with what was run here, and the numbers of one.

`tuner.report.beside_table` prints a run beside its paper; `tuner.plan.papers` finds the files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from trainables.config import trial as c
from trainables.config.errors import UserError
from tuner.plan import points
from tuner.plan.spec import SearchSpec, parse
from tuner.report.beside_table import INFERRED, number_of
from tuner.report.terminal import titled
from tuner.report.view import RunView
from tuner.report.viewer import view_of
from tuner.runs.hints import shown
from tuner.runs.run import Run
from tuner.search.study import Study


@dataclass(frozen=True)
class TableRun:
    """A run of a table.

    Attributes:
        view: of the run.
        done: complete trials.
        epochs: of a trial, the least and the most.
        of_epochs: the same in the table's file.
        size: its data and its network.
    """

    view: RunView
    done: int
    epochs: tuple[int, int]
    of_epochs: tuple[int, int]
    size: str

    @property
    def text(self) -> str:
        """All of it on a line."""
        epochs, wanted = ("-".join(map(str, dict.fromkeys(pair))) for pair in (self.epochs, self.of_epochs))
        length = f"{epochs} epochs" if epochs == wanted else f"{epochs} of {wanted} epochs"
        return f"{shown(self.view.run)}: {self.done}/{self.view.trials_wanted} trials, {length}, {self.size}"

    def as_json(self) -> dict[str, Any]:
        """What `tuner papers --json` prints of it."""
        view, facts = self.view, {key: value for key, value in vars(self).items() if key != "view"}
        return {"path": str(view.run), "trials": view.trials_wanted, **facts}


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
    """The runs of each table in a folder, in the order of their names.

    A run belongs to the table whose title its section `paper` has. A run that cannot be read is passed over.

    Args:
        folder: of the runs, or a run.
        tables: by the names of their files.
    """
    files = {spec.paper.title: name for name, spec in tables.items() if spec.paper}
    runs: dict[str, list[tuple[Run, Study]]] = {name: [] for name in tables}
    for manifest in sorted([*folder.glob("manifest.json"), *folder.glob("*/manifest.json")]):
        try:
            run = Run(manifest.parent)
            spec = parse(run.spec)
            if run.kind == "search" and spec.table and spec.paper and (name := files.get(spec.paper.title)):
                run.check_journal()
                runs[name].append((run, Study(run.journal, spec, None, reading=True)))
        except (UserError, OSError):
            continue
    return runs


def views(tables: Mapping[str, SearchSpec], runs: Mapping[str, Sequence[tuple[Run, Study]]]) -> list[TableView]:
    """Tables, with the runs that were found of each."""
    return [
        TableView(
            name=name,
            title=paper.title,
            data=paper.data,
            trials=spec.trials,
            gpu_hours=paper.gpu_hours,
            gpu=paper.gpu,
            runs=tuple(_table_run(run, study, spec) for run, study in runs[name]),
        )
        for name, spec in tables.items()
        if (paper := spec.paper)
    ]


def _table_run(run: Run, study: Study, table: SearchSpec) -> TableRun:
    view = view_of(run, study)
    done = sum(row.state == "complete" for row in view.trials)
    return TableRun(view, done, _epochs(study.spec), _epochs(table), size_of(study.spec.trial))


def _epochs(spec: SearchSpec) -> tuple[int, int]:
    """The least and the most epochs of a table's points."""
    epochs = [config.train.epochs for config in points.configs(spec).values()]
    return min(epochs), max(epochs)


def size_of(trial: c.TrialConfig) -> str:
    """The data and the network of a trial in a few words."""
    data, encoder = trial.data, trial.encoder
    facts = [data.name]
    facts += [] if data.train_images is None else [f"{data.train_images:,} images"]
    facts += [] if data.image_size is None else [f"{data.image_size} x {data.image_size}"]
    return ", ".join([*facts, encoder.name + (f" of width {encoder.width}" if encoder.width else "")])


def as_json(tables: Sequence[TableView]) -> list[dict[str, Any]]:
    """What `tuner papers --json` prints."""
    return [{**vars(table), "runs": [run.as_json() for run in table.runs]} for table in tables]


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
        numbers = [number_of(rows.get(label), "g", paper.infers(name, label)) for name, rows in paper.reported.items()]
        table.add_row(*map(Text, [label, *numbers]))
    return table
