"""`tuner keys`: what can be set in a search, or in one of its sections."""

import argparse
import sys

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from trainables.config.errors import UserError, nearest
from trainables.config.listing import described_keys
from trainables.config.settings import section_keys
from tuner.plan.spec import SearchSpec


def run(arguments: argparse.Namespace) -> int:
    """Lists keys with default, rule and description; returns the exit status."""
    section = arguments.section
    rows = [row for row in described_keys(SearchSpec) if f"{row.name}.".startswith(section)]
    if not rows:
        hint = nearest(section, filter(None, section_keys(SearchSpec)))
        raise UserError(f"{section}: no key begins so{hint}")
    if not sys.stdout.isatty():
        print("\n".join("\t".join(row) for row in rows), flush=True)
        return 0
    console = Console()
    for row in rows:
        console.print(Text.assemble((row.name, "bold"), f" = {row.default}" if row.default else ""))
        console.print(Padding(Text(row.rule, "cyan"), (0, 0, 0, 4)), Padding(Text(row.description), (0, 0, 0, 4)))
    return 0
