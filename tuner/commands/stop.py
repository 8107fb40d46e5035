"""`tuner stop`: ends a search, or one of its trials, with what it has come to."""

import argparse

from trainables.config.errors import UserError
from tuner.commands import asking
from tuner.runs.hints import command
from tuner.search.study import key_of


def run(arguments: argparse.Namespace) -> int:
    """Asks the driver to stop; returns the exit status."""
    held = asking.held(arguments.run)
    if held.kind == "train":
        pause = command("tuner", "pause", held.path)
        raise UserError(f"{arguments.run}: is a full run, which is done at its last epoch; pause it with: {pause}")
    if arguments.trial is not None:
        key = key_of(asking.trial_of(held, arguments.trial))
        asking.ask(held, "stop", key)
        print(f"trial {key} is stopped; its last metrics count")
        return 0
    asking.ask(held, "stop")
    ended = asking.wait_for_end(held)
    status = command("tuner", "status", held.path)
    print(f"{'the search has ended' if ended else 'running trials are stopped, then the search ends'}; see: {status}")
    return 0
