"""`tuner launch`: starts a search."""

import argparse

from trainables.config import equivalence
from tuner.commands import checks, searching
from tuner.plan import jobs, points, reading, space, spec
from tuner.runs import run as runs
from tuner.runs.beginning import beginning, unused


def run(arguments: argparse.Namespace) -> int:
    """Starts a search; returns the exit status."""
    jobs.require_kept(arguments.run, "--run")
    search = reading.read(arguments.search, settings(arguments))
    proposing = points.load(search) if search.table else space.load(search.space)
    path = arguments.run or unused(runs.RUNS, search.name)
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
        return searching.finish(made, searching.opened(made, search), arguments.wait)


def settings(arguments: argparse.Namespace) -> list[str]:
    """What the command line changes in a search, as KEY=VALUE."""
    return [*arguments.set, f"address={arguments.address}"] if arguments.address else arguments.set
