"""`tuner papers`: the papers' tables, what was run of them here, and one of them at toy size."""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

from trainables.config.errors import UserError
from tuner.commands import launch
from tuner.plan import jobs, papers, reading
from tuner.runs import hints
from tuner.runs import run as runs
from tuner.runs.beginning import unused

OF_TOY = ("set", "run", "address", "wait")  # arguments that go with --toy alone
NOT_OF_TOY = {  # arguments that do not go with it, and what to do instead
    "json": "it launches a run, and tuner status RUN --json says what that came to",
    "runs": "it looks for no runs, and --run names the directory that it makes",
}


def run(arguments: argparse.Namespace) -> int:
    """Lists the tables, shows one, or runs one at toy size; returns the exit status."""
    if arguments.toy:
        return _toy(arguments)
    if given := _given(arguments, OF_TOY):
        where = f"tuner launch {papers.path_of(arguments.name)}" if arguments.name else "tuner launch FILE"
        raise UserError(f"--{given[0]}: goes with --toy; in its own size a table is started by: {where}")
    if arguments.runs is not None and not arguments.runs.is_dir():
        raise UserError(f"--runs {arguments.runs}: no such folder")
    folder = arguments.runs or runs.RUNS
    if arguments.name is None:
        return _list(folder, arguments.json)
    return _show(arguments.name, folder, arguments.json)


def _given(arguments: argparse.Namespace, names: Iterable[str]) -> list[str]:
    """Which of some arguments were given; `--wait 0s` counts as given."""
    values = {name: getattr(arguments, name) for name in names}
    return [name for name, value in values.items() if value is not False and value not in (None, [])]


def _toy(arguments: argparse.Namespace) -> int:
    """Launches a table at toy size; what the command line sets counts above that."""
    if arguments.name is None:
        raise UserError("--toy: goes with the name of a table; 'tuner papers' lists them")
    if given := _given(arguments, NOT_OF_TOY):
        raise UserError(f"--{given[0]}: does not go with --toy: {NOT_OF_TOY[given[0]]}")
    path = papers.path_of(arguments.name)
    jobs.require_kept(arguments.run, "--run")
    search = reading.read(path, [*papers.TOY, *launch.settings(arguments)])
    return launch.started(search, arguments.run or unused(runs.RUNS, f"{arguments.name}-toy"), arguments.wait)


def _list(folder: Path, as_json: bool) -> int:
    from tuner.report import papers as shown
    from tuner.report import terminal

    every = papers.tables()
    tables = shown.views(every, shown.found(folder, every))
    if as_json:
        print(json.dumps(shown.as_json(tables), indent=2))
    else:
        terminal.console().print(shown.listing(tables))
        print("\n".join(shown.run_lines(tables, folder)))
    return 0


def _show(name: str, folder: Path, as_json: bool) -> int:
    """Shows a table: what its file says, the paper's numbers, and each run of it beside them."""
    spec = papers.described(name)

    from tuner.report import beside_table, terminal, view
    from tuner.report import papers as shown

    (table,) = shown.views({name: spec}, shown.found(folder, {name: spec}))
    if as_json:
        numbers = {key: getattr(spec.paper, key) for key in ("reported", "inferred")}
        rows = {"rows": list(spec.table), **numbers, "views": [view.as_json(run.view) for run in table.runs]}
        print(json.dumps({**shown.as_json([table])[0], **rows}, indent=2))
        return 0
    console = terminal.console()
    print("\n".join(papers.header(name)))
    if (printed := shown.printed(spec)) is not None:
        console.print(printed)
    for run in table.runs:
        print(f"\n{run.text}; scored: the {run.view.network}")
        console.print(*(beside_table.tables_of(run.view.paper) or [terminal.points_table(run.view)]))
    if not table.runs:
        tryout = f"tuner papers {name} --toy tries it out in minutes, without its data"
        print(f"no run of it in {hints.shown(folder)}; {tryout}")
    return 0
