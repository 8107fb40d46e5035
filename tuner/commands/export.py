"""`tuner export`: the best configurations of a search, as files."""

import argparse
import sys

from trainables.config.errors import UserError
from tuner.commands import searching
from tuner.plan import jobs
from tuner.report import export
from tuner.runs import run as runs


def run(arguments: argparse.Namespace) -> int:
    """Writes the best configurations and prints their paths; returns the exit status."""
    jobs.require_kept(arguments.output, "--output")
    source = runs.Run(arguments.run)
    if source.kind == "train":
        where = source.path / "spec.yaml"
        raise UserError(f"{arguments.run}: is a full run, not a search: its configuration is {where}")
    study = searching.read(source)
    paths = export.export(source, study, arguments.top, arguments.output)
    for path in paths:
        print(path)
    if len(paths) < arguments.top:
        print(f"no more than {len(paths)} {'points' if study.spec.table else 'trials'} are complete", file=sys.stderr)
    return 0
