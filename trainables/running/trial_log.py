"""The log of a trial: one file for each of its workers."""

import contextlib
import faulthandler
import logging
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def logged(path: Path) -> Iterator[None]:
    """Log records of a trial go to its own file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler, root = logging.FileHandler(path), logging.getLogger()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        with contextlib.suppress(OSError):  # of lines for which the disc has no room
            handler.close()


def dump_stacks(log: Path) -> None:
    """Writes what each thread of this process is doing to a trial's log; nothing where the log cannot be written."""
    with contextlib.suppress(OSError), log.open("a") as file:
        file.write("stacks of a worker that makes no progress:\n")
        file.flush()
        faulthandler.dump_traceback(file)
