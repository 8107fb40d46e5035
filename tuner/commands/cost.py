"""`tuner cost`: what a step of a trial computes, what the trial holds in memory, and how long a step takes here."""

import argparse
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from trainables.config import trial as c
from trainables.config.errors import UserError, nearest, shown_name
from trainables.config.settings import read_settings, read_yaml
from trainables.running.messages import Cost
from tuner.commands import searching
from tuner.commands.checkup.base import SMALLER, Killed, Late, ask
from tuner.plan import points, reading
from tuner.plan.paper import FIGURES, Paper
from tuner.plan.spec import SearchSpec, parse
from tuner.runs import run as runs
from tuner.search.study import key_of

if TYPE_CHECKING:  # it needs torch, which is imported when the trials are known
    from trainables.running.stored import Known
    from tuner.report.costs import CostRow

MEASURE = 600.0  # seconds for the dry step of a trial
CLASSES = 10  # where their number is not known
DRY_EPOCH_STEPS = 100  # of the run that a dry step is of, where the number of images is not known


@dataclass(frozen=True)
class Asked:
    """The trials whose cost is asked for, by their labels, and what a paper printed of them."""

    trials: Mapping[str, c.TrialConfig]
    paper: Paper | None = None


def run(arguments: argparse.Namespace) -> int:
    """Prints what trials cost; returns the exit status."""
    asked = chosen(described(arguments.trial, arguments.set), arguments.row)

    from trainables.running import cost, stored  # torch, which takes a while
    from tuner.report import costs, terminal

    rows = []
    for label, config in asked.trials.items():
        known = stored.known(config)
        known = known if arguments.classes is None else replace(known, classes=arguments.classes)
        row = costs.CostRow(label, cost.counted(config, known), images=known.images, reported=_reported(asked, label))
        rows.append(measured(row, config, known) if arguments.measure else row)
    if arguments.json:
        print(json.dumps(costs.as_json(rows), indent=2))
        return 0
    for table in costs.tables(rows):
        terminal.console().print(table)
    return 0


def described(path: Path, settings: list[str]) -> Asked:
    """The trials of a file, of a run, or of a trial's folder in a run.

    Args:
        path: a trial or a search in YAML, or a folder.
        settings: of the command line, such as "teacher.placement=projector".

    Raises:
        UserError: there is no such file, or it is at fault; or settings are given for a run, which has its trials.
    """
    if not path.is_dir():
        stated = read_yaml(path)
        if not stated.keys() & (SearchSpec.model_fields.keys() - c.TrialConfig.model_fields.keys()):
            return Asked({path.stem: c.changed(stated, read_settings(settings))})
        spec = reading.described(path, settings, runs.format_of_search(path))
        return Asked(points.configs(spec) if spec.table else {path.stem: spec.trial}, spec.paper)
    if settings:
        raise UserError(f"--set {settings[0]}: goes with a file; the trials of {path} are what they are")
    if (path / "manifest.json").is_file():
        return _of_run(runs.Run(path))
    folder = path.absolute()
    if not (folder.parent.parent / "manifest.json").is_file():
        raise UserError(f"{path}: neither a run directory (it has no manifest.json) nor a trial's folder in one")
    return chosen(_of_run(runs.Run(folder.parent.parent)), folder.name)


def _of_run(run: runs.Run) -> Asked:
    """The points of a run's table, the trial of a full run, or all trials that a search has asked, by their keys."""
    spec = parse(run.spec)
    if run.kind == "train":
        return Asked({runs.FULL: spec.trial})
    if spec.table:
        return Asked(points.configs(spec), spec.paper)
    study = searching.read(run)
    return Asked({key_of(trial): study.config_of(trial) for trial in study.trials()})


def chosen(asked: Asked, label: str | None) -> Asked:
    """One of the trials, or all of them.

    Raises:
        UserError: no trial has this label, or there is none at all.
    """
    if not asked.trials:
        raise UserError("the search has asked no trial yet; name its YAML file")
    if label is None:
        return asked
    if label not in asked.trials:
        raise UserError(f"--row {shown_name(label)}: no such row{nearest(label, asked.trials)}")
    return replace(asked, trials={label: asked.trials[label]})


def measured(row: "CostRow", config: c.TrialConfig, known: "Known") -> "CostRow":
    """The row with the time and the memory of a dry step on this machine, or with the reason why there is none."""
    stored = {
        "images": known.images or config.train.batch_size * DRY_EPOCH_STEPS,
        "shape": known.shape,
        "classes": known.classes or CLASSES,
    }
    request = {"trial": config.plain(), "workers": 1, "threads": len(os.sched_getaffinity(0)), "stored": stored}
    try:
        return replace(row, measured=Cost(**ask("trainables.running.dry_step", request, MEASURE)))
    except (Late, Killed) as error:
        return replace(row, unmeasured=f"{error}; {SMALLER}")
    except UserError as error:
        return replace(row, unmeasured=str(error))


def _reported(asked: Asked, label: str) -> dict[str, float]:
    """The figures that the paper printed of a row."""
    printed = asked.paper.reported if asked.paper else {}
    return {name: rows[label] for name, rows in printed.items() if name in FIGURES and label in rows}
