"""`tuner resume`: continues a search, or a full run, that was interrupted."""

import argparse

from trainables.config import formats
from trainables.config.errors import UserError
from tuner.commands import checks, searching, train
from tuner.commands.launch import settings
from tuner.plan import jobs, reading
from tuner.runs import run as runs
from tuner.runs.beginning import beginning


def run(arguments: argparse.Namespace) -> int:
    """Continues a run; returns the exit status."""
    jobs.require_kept(arguments.run, "run directory")
    begun = runs.Run(arguments.run)
    continuable = reading.CONTINUABLE if begun.kind == "search" else reading.CONTINUABLE_ALONE
    try:
        search = reading.continued(begun.spec, settings(arguments), continuable)
    except UserError as error:
        again = "nothing was asked in this run yet, so it can be launched again with other settings, which replaces it"
        raise UserError(f"{error}{f'; {again}' if begun.untouched and not begun.held() else ''}") from None
    checks.require_all(search, begun.path)
    begun.hold()
    with beginning(begun, launched=False):
        study = searching.opened(begun, search) if begun.kind == "search" else None
        begun.write_spec(search.plain())
        if changed := formats.news(begun.format):
            print(f"{begun.path.name}: {changed}", flush=True)
        if study is None:
            return train.continue_run(begun, search, arguments.wait)
        return searching.finish(begun, study, arguments.wait)
