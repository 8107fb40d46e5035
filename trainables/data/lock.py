"""A lock between the processes of a node, for one of them to download or decode while the others wait."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from trainables.data import pulse

LOOK = 0.1  # seconds between two looks at a lock that another process holds


@contextmanager
def locked(path: Path) -> Iterator[Callable[[], None]]:
    """A lock between processes. The block gets a function to call whenever its work advances.

    A process that waits for the lock gives a sign (`pulse`) for each such call, and no other sign: if the holder hangs,
    so do all that wait for it. A download cannot call the function, so a wait for one belongs within
    `pulse.unmeasured`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as lock:  # "w" would change the file's time, by which the holder shows its progress
        seen = os.stat(lock.fileno()).st_mtime_ns
        while not _taken(lock):
            time.sleep(LOOK)
            if (now := os.stat(lock.fileno()).st_mtime_ns) != seen:
                seen = now
                pulse.beat()
        yield lambda: os.utime(lock.fileno())


def _taken(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
