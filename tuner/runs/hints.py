"""What a user may do next, in words: commands ready for a shell, short paths, and why a run ended."""

import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from tuner.runs.run import Run


def counted(number: int, noun: str) -> str:
    """A number with its noun: "1 trial", "2 trials"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def shown(path: Path) -> str:
    """A path relative to the working folder, where it lies inside."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def command(name: str, *arguments: object) -> str:
    """A command line that calls a program of this installation from the user's working folder, quoted for a shell."""
    program = Path(sys.executable).parent / name
    words = [name if shutil.which(name) == str(program) else program, *arguments]
    return shlex.join(shown(word) if isinstance(word, Path) else str(word) for word in words)


def resume_hint(run: Run) -> str:
    """How to continue a run that was interrupted; an evaluation is begun again."""
    if run.kind == "evaluate":
        return "start it again"
    return f"continue with: {command('tuner', 'resume', run.path)}"


def failed_alike(run: Run, keys: Sequence[str], error: str) -> str:
    """Why a search ends whose trials fail alike, and how to go on.

    Args:
        run: of the search.
        keys: of the trials that failed, in order.
        error: of the last one.
    """
    log = run.trial_log(keys[-1], error)
    mend = "mend what they share (spec, space or data) and launch it as another run"
    go_on = f"or go on in spite of it: {command('tuner', 'resume', run.path)}"
    return f"trials {', '.join(keys)} failed alike before their first epoch: {error} (log: {log}); {mend}, {go_on}"


def failure_lines(failure: str) -> str:
    """Why a run failed before a trial was asked, and how to go on: a resume would fail in the same way."""
    return f"it failed before a trial was asked: {failure}\nput it right and launch it again, which replaces this run"
