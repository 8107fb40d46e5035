"""`tuner set`: changes a search while it runs."""

import argparse

from trainables.config.errors import UserError
from tuner.commands import asking
from tuner.commands.arguments import CHANGEABLE
from tuner.plan import reading
from tuner.runs.hints import resume_hint


def run(arguments: argparse.Namespace) -> int:
    """Asks the driver to change keys; returns the exit status."""
    held = asking.held(arguments.run)
    if held.kind == "train":
        rule = (
            f"is a full run, in which nothing changes while it runs; pause it, and {resume_hint(held)} --set KEY=VALUE"
        )
        raise UserError(f"{arguments.run}: {rule}")
    values = reading.changes_while_running(held.spec, arguments.settings, CHANGEABLE)
    asking.ask(held, "set", values=values)
    print("\n".join(f"{key} = {'none' if value is None else value}" for key, value in values.items()))
    return 0
