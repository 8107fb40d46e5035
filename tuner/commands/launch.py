"""`tuner launch`: starts a search."""

import argparse
from pathlib import Path

from trainables.config import equivalence
from tuner.commands import checks, searching
from tuner.plan import jobs, points, reading, space, spec
from tuner.runs import run as runs
from tuner.runs.beginning import beginning, unused


def run(arguments: argparse.Namespace) -> int:
    """Starts a search; returns the exit status."""
    jobs.require_kept(arguments.run, "--run")
    search = reading.read(arguments.search, settings(arguments))
    return started(search, arguments.run or unused(runs.RUNS, search.name), arguments.wait)


def started(search: spec.SearchSpec, path: Path, wait: float | None) -> int:
    """Checks a search, runs it to its end and prints what it came to; returns the exit status.

    Args:
        search: whose data are there.
        path: of the run that is made.
        wait: seconds to wait for a cluster that has no room for a trial yet; None for the default.

    Raises:
        UserError: a check fails, or the run cannot be made.
    """
    proposing = points.load(search) if search.table else space.load(search.space)
    checks.require_all(search, path, proposing)
    if rule := equivalence.own_line(search.trial):
        print(rule)
    if note := spec.width_note(search):
        print(note)
    for labels in points.alike(search):
        print(f"one trial under several labels: {', '.join(map(repr, labels))}")
    made = runs.Run.create(path, "search", search.plain(), search.seed)
    if made.replaces:
        print(f"{made.path}: replaced; nothing had been asked in it")
    if proposing.file is not None:
        made.keep_space(proposing.file)
    with beginning(made, launched=True):
        return searching.finish(made, searching.opened(made, search), wait)


def settings(arguments: argparse.Namespace) -> list[str]:
    """What the command line changes in a search, as KEY=VALUE."""
    return [*arguments.set, f"address={arguments.address}"] if arguments.address else arguments.set
