"""Signs of life of this process: what gets on gives them, and whoever watches over a worker sees whether they still come.

A worker that is stopped, or that hangs in a sum, gives none, though its process is alive.
"""

from collections.abc import Iterator
from contextlib import contextmanager

_signs = 0
_unmeasured = 0


def beat() -> None:
    """Images were read, or a step of something was made."""
    global _signs
    _signs += 1


def signs() -> int:
    """How many there were so far."""
    if _unmeasured:
        beat()
    return _signs


@contextmanager
def unmeasured() -> Iterator[None]:
    """For work whose progress nobody can see, such as a download: there the living process is sign enough."""
    global _unmeasured
    _unmeasured += 1
    try:
        yield
    finally:
        _unmeasured -= 1
