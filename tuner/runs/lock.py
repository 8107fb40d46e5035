"""The lock of a run: who runs it now, and what that process waits for."""

import contextlib
import fcntl
import os
import time
from pathlib import Path
from typing import IO

from trainables.config.errors import UserError

NOTE = 4096  # bytes of the lock's file, which says who runs the search and what it waits for
RETRY = 0.2  # seconds; somebody who looks whether a run is held holds it for a moment


class Lock:
    """The lock of a run's folder. The process that takes it keeps it until it ends.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._file: IO[str] | None = None

    @property
    def path(self) -> Path:
        return self.folder / "lock"

    def take(self) -> None:
        """Takes the run for this process: two drivers on one journal would ask and tell twice.

        Raises:
            UserError: another process holds it.
        """
        self.path.touch()
        self._file = file = self.path.open("r+")  # not to be appended to: notes replace each other
        for last in (False, True):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not os.path.samestat(os.fstat(file.fileno()), self.path.stat()):
                    raise UserError(f"{self.folder}: was replaced by another launch in this moment")
                break
            except OSError:
                file.seek(0)
                if last:
                    holder = file.readline().strip() or "?"
                    raise UserError(f"{self.folder}: is being run by process {holder} already") from None
                time.sleep(RETRY)
        self.note("")

    def note(self, waits: str) -> None:
        """Notes for readers what this process waits for; nothing where it does not wait.

        It lies in the lock, a block of which is written at once, because the disc may have no room later on.
        """
        assert self._file is not None
        content = f"{os.getpid()}\n{waits}\n".encode()[:NOTE]
        with contextlib.suppress(OSError):  # a disc that cannot be written at all
            os.pwrite(self._file.fileno(), content.ljust(NOTE), 0)

    def noted(self) -> str:
        """What the process that holds the run waits for; empty where it does not wait, or where there is none."""
        if not self.held():
            return ""
        return self.path.read_text(errors="replace").partition("\n")[2].strip()

    def held(self) -> bool:
        """Whether a process holds the run now."""
        try:
            with self.path.open("a+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return False
        except PermissionError:
            return False
        except OSError:
            return True
