"""The lock of a run: who runs it now, and what that process waits for.

A process that holds a run has the file `lock` locked by `flock`, which ends with the process. On storage that several
hosts share, `flock` may be seen by one host only (NFS with `local_lock=flock`, some FUSE file systems). So the holder
also writes a beat into the file every few seconds: another host takes the run only when no beat comes any more.
"""

import atexit
import contextlib
import fcntl
import os
import socket
import sys
import threading
import time
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from trainables.config.errors import UserError

NOTE = 4096  # bytes of the lock's file, which says who runs the search and what it waits for
ABANDONED = 86400.0  # seconds without a beat after which a process on another host is gone, whatever its clock says
RETRY = 0.2  # seconds; somebody who looks whether a run is held holds it for a moment
BEAT = 5.0  # seconds between two beats of the holder
SILENCE = 30.0  # seconds without a beat after which a holder on another host is dead


def here() -> str:
    """The id of this boot of this host: within it `flock` can be trusted, also between containers."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()


@dataclass(frozen=True)
class Holder:
    """What the lock's file says of the process that took the run last.

    Attributes:
        process: its id; empty where the file is empty or damaged.
        waits: what it waits for; empty where it does not wait.
        host: name of its host; empty in files of earlier versions.
        boot: id of its host's boot.
        beat: number of its last beat; 0 once it has ended in order.
    """

    process: str = ""
    waits: str = ""
    host: str = ""
    boot: str = ""
    beat: int = 0

    @classmethod
    def read(cls, path: Path) -> "Holder":
        """The holder that a lock's file names."""
        try:
            lines = path.read_text(errors="replace").split("\n")
        except OSError:
            return cls()
        process, waits, host, boot, beat = (line.strip() for line in [*lines, *[""] * 5][:5])
        return cls(process, waits, host, boot, int(beat) if beat.isdecimal() else 0)

    @property
    def elsewhere(self) -> bool:
        """Whether it runs on another host, and has not ended in order."""
        return self.boot not in ("", here()) and self.beat > 0

    def alive(self, path: Path) -> bool:
        """Whether its beats go on. This takes up to `SILENCE` seconds; the clocks of hosts are not compared."""
        end = time.monotonic() + SILENCE
        while (now := Holder.read(path)) == self or not now.process:
            if time.monotonic() > end:
                return False
            time.sleep(RETRY)
        return now.elsewhere

    def __str__(self) -> str:
        return f"process {self.process or '?'}{f' on {self.host}' if self.elsewhere else ''}"


class Lock:
    """The lock of a run's folder. The process that takes it keeps it until it ends.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._file: IO[str] | None = None
        self._waits, self._beat = "", 0
        self._writing = threading.Lock()

    @property
    def path(self) -> Path:
        return self.folder / "lock"

    def take(self) -> None:
        """Takes the run for this process: two drivers on one journal would ask and tell twice.

        Raises:
            UserError: another process holds it, on this host or on another one.
        """
        if not self.path.exists():  # a touch would look like a beat
            self.path.touch()
        self._file = file = self.path.open("r+")  # not to be appended to: notes replace each other
        for last in (False, True):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not os.path.samestat(os.fstat(file.fileno()), self.path.stat()):
                    raise UserError(f"{self.folder}: was replaced by another launch in this moment")
                break
            except OSError:
                if last:
                    raise UserError(f"{self.folder}: is being run by {Holder.read(self.path)} already") from None
                time.sleep(RETRY)
        holder = Holder.read(self.path)
        if holder.elsewhere:
            looks = f"looking for {SILENCE:g} s whether it still does"
            print(f"{self.folder}: {holder} ran it and has not ended in order; {looks}", file=sys.stderr, flush=True)
            if holder.alive(self.path):
                raise UserError(f"{self.folder}: is being run by {holder} already")
        self.note("")
        HELD.add(self)
        lock = weakref.ref(self)  # a thread that knew the lock would keep it for ever
        threading.Thread(target=_keep_beating, args=(lock,), daemon=True).start()

    def note(self, waits: str) -> None:
        """Notes for readers what this process waits for; nothing where it does not wait.

        It lies in the lock, a block of which is written at once, because the disc may have no room later on.
        """
        self._waits = waits
        self.beat()

    def beat(self, last: bool = False) -> bool:
        """Writes a beat; returns whether this process still holds the run.

        Args:
            last: whether the process ends now.
        """
        if self._file is None or self._file.closed:
            return False
        if (holder := Holder.read(self.path)).elsewhere and self._beat:
            # this process was stopped for a while, or cut off from its storage, and was taken for dead
            print(f"error: {self.folder}: was taken by {holder}; this process ends", file=sys.__stderr__, flush=True)
            os._exit(3)
        with self._writing, contextlib.suppress(OSError, ValueError):  # a disc that cannot be written; a closed file
            self._beat = 0 if last else self._beat + 1
            waits = self._waits.replace("\n", " ")[: NOTE // 4]
            content = f"{os.getpid()}\n{waits}\n{socket.gethostname()}\n{here()}\n{self._beat}\n".encode()
            os.pwrite(self._file.fileno(), content.ljust(NOTE), 0)
        return True

    def noted(self) -> str:
        """What the process that holds the run waits for; empty where it does not wait, or where there is none."""
        return Holder.read(self.path).waits if self.held() else ""

    def held(self) -> bool:
        """Whether a process holds the run now. Of a holder on another host, its last beat says so."""
        return self._held(SILENCE)

    def abandoned(self) -> bool:
        """Whether its last process is gone for sure. One on another host is that after a day: clocks may differ."""
        return not self._held(ABANDONED)

    def _held(self, silence: float) -> bool:
        """Whether a process holds the run, or held it on another host and has beaten within so many seconds."""
        try:
            with self.path.open("a+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except PermissionError:
            return False
        except OSError:
            return True
        holder = Holder.read(self.path)
        return holder.elsewhere and abs(time.time() - self.path.stat().st_mtime) < silence


HELD: "weakref.WeakSet[Lock]" = weakref.WeakSet()  # the locks that this process has taken


def _keep_beating(lock: "weakref.ref[Lock]") -> None:
    while True:
        time.sleep(BEAT)
        if (held := lock()) is None or held not in HELD or not held.beat():
            return
        del held  # or a run that nobody needs would stay held


@atexit.register
def release_all() -> None:
    """Notes in all locks of this process that it ends in order, so that no other host waits for its beats."""
    for lock in [*HELD]:
        lock.beat(last=True)
    HELD.clear()
