"""`tuner status`: what a search, or a full run, has come to."""

import argparse
import json

from tuner.commands import searching
from tuner.report import beside_table, full_run, terminal
from tuner.report.view import RunView, as_json
from tuner.report.viewer import view_of
from tuner.runs import hints
from tuner.runs import run as runs
from tuner.search.study import Study, key_of


def run(arguments: argparse.Namespace) -> int:
    """Prints a run's table, or all of it as JSON; returns the exit status."""
    shown = runs.Run(arguments.run)
    if shown.kind == "train":
        whole = full_run.view_of(shown)
        print(
            json.dumps(full_run.as_json(whole), indent=2) if arguments.json else "\n".join(full_run.lines(shown, whole))
        )
        return 0
    study = searching.read(shown)
    view = view_of(shown, study)
    if arguments.json:
        print(json.dumps(as_json(view), indent=2), flush=True)
        return 0
    terminal.console().print(terminal.table_of(view, "running" if view.held else ""))
    if view.points:
        terminal.console().print(terminal.points_table(view), *beside_table.tables_of(view.paper))
    for trial in view.trials:
        if trial.error:
            print(f"trial {trial.key}: {trial.error}\n  log: {trial.log}")
    if view.waits:
        print(f"waiting: {view.waits}")
    if not view.held and view.ended < view.trials_wanted:
        print(_ended(shown, study, view))
    return 0


def _ended(shown: runs.Run, study: Study, view: RunView) -> str:
    """Why nobody runs a search that is not at its end, and how to go on."""
    if trials := study.failed_alike():
        keys, last = [key_of(trial) for trial in trials], trials[-1].user_attrs["error"]
        return f"ended: {hints.failed_alike(shown, keys, last)}"
    if shown.untouched and (failure := shown.manifest.get("failure")):
        return hints.failure_lines(failure)
    return f"nobody runs it now; {hints.resume_hint(shown)}"
