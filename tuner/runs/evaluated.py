"""The checkpoints that an evaluation on slots scores. A run that goes on may delete them before a worker reads them.

So each gets a second name in the directory of the evaluation's logs: a hard link, or a copy where none can be made. The
second names end with the evaluation. Those of one that was killed are removed by the next evaluation beside them, or
when their run is next trained. In a directory that --run names they stay until an evaluation names it again.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from trainables.config.errors import TrialFailure, UserError
from tuner.runs.run import Run

PREFIX = ".evaluation-"  # of the directory of an evaluation's logs, beside the checkpoint


@contextlib.contextmanager
def kept(run: Run, checkpoints: Sequence[str]) -> Iterator[list[str]]:
    """A context in which checkpoints can be read, whoever deletes their files.

    Args:
        run: of the evaluation's logs, held by this process.
        checkpoints: their files.

    Yields:
        The names under which they can be read, in the same order.

    Raises:
        UserError: one is gone already, or cannot be copied.
        TrialFailure: as it was raised in the context, but with the checkpoints' own names.
    """
    folder = run.checkpoints_folder
    names = {str(folder / f"{number}-{Path(path).name}"): path for number, path in enumerate(checkpoints)}
    try:
        folder.mkdir()
        for name, path in names.items():
            _name_again(Path(path), Path(name))
        yield [*names]
    except TrialFailure as failure:
        text = str(failure)
        for name, path in names.items():
            text = text.replace(name, path)
        raise TrialFailure(text) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned(folder: Path) -> None:
    """Removes what evaluations that were killed have left in a folder of checkpoints; logs of a failed one stay."""
    for logs in folder.glob(f"{PREFIX}*"):
        with contextlib.suppress(UserError, OSError):  # one that is being made, or is removed in this moment
            run = Run(logs)
            if run.checkpoints_folder.is_dir() and run.abandoned():
                shutil.rmtree(logs, ignore_errors=True)


def _name_again(path: Path, name: Path) -> None:
    try:
        try:
            os.link(path.resolve(), name)
        except OSError:  # on another file system, on one without hard links, or of another user
            shutil.copyfile(path, name)
    except FileNotFoundError:
        raise UserError(f"{path}: was deleted before it could be scored; give its folder for the newest one") from None
    except OSError as error:
        rule = f"cannot be copied to {name.parent} ({error.strerror})"
        raise UserError(f"{path}: {rule}; name a directory that has room with --run") from None
