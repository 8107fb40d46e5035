"""Signs that this process gets on: steps, images that are read, evaluations.

A worker that is stopped, or hangs in a sum, gives none although its process is alive.
"""

from collections.abc import Iterator
from contextlib import contextmanager

_signs = 0
_unmeasured = 0


def beat() -> None:
    """Notes that something was done: images read, or a step made."""
    global _signs
    _signs += 1


def signs() -> int:
    """How many there were so far. Only whether the number has changed since the last call means something."""
    if _unmeasured:
        beat()
    return _signs


@contextmanager
def unmeasured() -> Iterator[None]:
    """For work whose progress cannot be seen, such as a download or the wait for another's: in it every look finds a sign."""
    global _unmeasured
    _unmeasured += 1
    try:
        yield
    finally:
        _unmeasured -= 1
