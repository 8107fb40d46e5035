"""Where a new run is made, and what becomes of one that fails before anything was asked in it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from trainables.config.errors import TrialFailure, UserError
from tuner.runs.run import Run


def unused(folder: Path, name: str) -> Path:
    """The first of name, name-2, name-3, ... in `folder` that does not exist, or that gives way to another run.

    A run gives way if nothing was asked in it and nobody holds it.
    """
    candidates = [folder / name, *(folder / f"{name}-{n}" for n in range(2, 10_000))]
    return next(path for path in candidates if not path.exists() or _gives_way(path))


def _gives_way(path: Path) -> bool:
    try:
        run = Run(path)
    except UserError:
        return False
    return run.untouched and not run.held()


@contextlib.contextmanager
def beginning(run: Run, launched: bool) -> Iterator[None]:
    """A context around what a launch or a resume does once it holds its run.

    If that fails before anything was asked, the run can be launched again: an error of the user discards a run that was
    just `launched`, and after a failure the run stays with its logs until a launch replaces it.
    """
    try:
        yield
    except UserError:
        if launched:
            run.discard()
        raise
    except TrialFailure as failure:
        if not run.untouched:
            raise
        with contextlib.suppress(OSError):  # on a full disc; it is said all the same
            run.note_failure(str(failure).splitlines()[0])
        again = f"{run.path} holds no result yet: put it right and launch it again, which replaces that run"
        raise TrialFailure(f"{failure}\n  {again}") from None
