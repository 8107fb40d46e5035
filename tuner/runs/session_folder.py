"""A temporary folder for one session of a driver, which the next session removes if its own was killed."""

import contextlib
import fcntl
import shutil
import tempfile
import time
from pathlib import Path

PREFIX = "teacher-tuner-ray-"
HELD = ".held"  # is locked while the session lives
OLD = 3600.0  # seconds after which a folder without this lock belongs to no session that is beginning


class SessionFolder:
    """A folder below the system's temporary one. Making it removes those of sessions that were killed.

    Attributes:
        path: of the folder.
    """

    def __init__(self) -> None:
        for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
            _remove_abandoned(folder)
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
        draft = self.path / f"{HELD}-draft"
        self._held = draft.open("w")
        fcntl.flock(self._held, fcntl.LOCK_EX)
        draft.rename(self.path / HELD)  # it is locked before others can see it

    def clear(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._held.close()


def _remove_abandoned(folder: Path) -> None:
    """Removes a folder whose session has ended; one that another user, or a session that begins, has made stays.

    Ray Train may write into a folder after `clear` has removed it, which makes the folder again, without its lock.
    """
    with contextlib.suppress(OSError):
        try:
            held = (folder / HELD).open("r+")
        except FileNotFoundError:
            if time.time() - folder.stat().st_mtime > OLD:
                shutil.rmtree(folder, ignore_errors=True)
            return
        with held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
