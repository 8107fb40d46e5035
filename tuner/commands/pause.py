"""`tuner pause`: has a search, or one of its trials, make a checkpoint and stop for now."""

import argparse
import sys

from trainables.config.errors import UserError
from trainables.running import surroundings
from tuner.commands import asking
from tuner.runs.hints import command, resume_hint
from tuner.search.study import key_of


def run(arguments: argparse.Namespace) -> int:
    """Asks the driver for a pause, or to end that of a trial; returns the exit status."""
    if arguments.off and arguments.trial is None:
        raise UserError("--off: needs --trial; a run that was paused as a whole goes on by 'tuner resume'")
    held = asking.held(arguments.run)
    if arguments.trial is None:
        try:
            asking.ask(held, "pause")
        except OSError as error:  # such as a full disc, for which one may want to pause
            said = surroundings.fault(error, held.path)
            if said is None:
                raise
            print(f"error: {said}, or interrupt it with ^C", file=sys.stderr)
            return 3
        ended = asking.wait_for_end(held)
        print(f"{'paused' if ended else 'its driver makes checkpoints and ends'}; {resume_hint(held)}")
        return 0
    key = key_of(asking.trial_of(held, arguments.trial))
    if arguments.off:
        asking.ask(held, "promote", key)
        print(f"trial {key} goes on when a slot is free")
    else:
        asking.ask(held, "pause", key)
        on = command("tuner", "pause", held.path, "--trial", key, "--off")
        print(
            f"trial {key} pauses after its present epoch; it goes on by itself when nothing else is left, or by: {on}"
        )
    return 0
