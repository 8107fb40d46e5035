"""The program `tuner`: parses its arguments and imports the command, a module of this folder, that runs them."""

import importlib
import os
import sys
import warnings
from pathlib import Path
from typing import NoReturn

from trainables.config.errors import BrokenOff, TrialFailure, UserError, nearest, printable
from trainables.running import surroundings
from tuner.commands import arguments
from tuner.runs import lock


def main(line: list[str] | None = None) -> int:
    """Runs a command.

    Args:
        line: the words behind `tuner`; by default those of this process.

    Returns:
        The exit status: 2 for an error of the user, with a printed line for each fault; 1 for a trial that failed, or
        where no trial is complete; 3 where the machine or the cluster broke the command off, with a line that says
        what to do; 130 for an interruption.
    """
    parser = arguments.parser()
    first, *_ = [*(sys.argv[1:] if line is None else line), ""]
    if first and not first.startswith("-") and first not in arguments.COMMANDS:
        parser.error(f"no command is named {first!r}{nearest(first, arguments.COMMANDS)}")
    given = parser.parse_args(line)
    try:
        status: int = importlib.import_module(f"tuner.commands.{given.command}").run(given)
        sys.stdout.flush()
        return status
    except UserError as error:
        return _ended("\n".join(f"error: {printable(fault)}" for fault in str(error).split("\n")), 2)
    except TrialFailure as error:
        return _ended(f"error: {error}", 1)
    except BrokenPipeError:  # such as by `tuner status --json RUN | head`
        return _ended("", 1)
    except OSError as error:
        said = surroundings.fault(error, getattr(given, "run", None) or Path.cwd())
        if said is None and error.filename is None:
            raise
        return _ended(f"error: {said or f'{error.filename}: {error.strerror}'}", 2 if said is None else 3)
    except BrokenOff as end:
        _leave(f"error: {end}", 3)
    except KeyboardInterrupt as interrupt:
        _leave(interrupt.args[0] if interrupt.args else "interrupted", 130)


def _ended(last: str, status: int) -> int:
    """Says what a command ends with; returns its exit status.

    Output that cannot be written, such as a log on a full disc, is given up: the status says what there is to say.
    """
    for stream, text in ((sys.stdout, ""), (sys.stderr, last and f"{last}\n")):
        try:
            stream.write(text)
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return status


def _leave(last: str, status: int) -> NoReturn:
    """Ends the process at once: workers are in the middle of an epoch, and Ray may be gone.

    A local Ray ends with its driver.
    """
    _ended(last, status)
    lock.release_all()
    os._exit(status)


warnings.filterwarnings("ignore", category=FutureWarning, module="ray")

if __name__ == "__main__":
    sys.exit(main())
