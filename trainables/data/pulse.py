"""Signs that this process advances: steps, images that are read, evaluations.

A worker that is stopped, or hangs in an all-reduce, gives no sign although its process is alive.
"""

from collections.abc import Iterator
from contextlib import contextmanager

_signs = 0
_unmeasured = 0


def beat() -> None:
    """Notes that work was done, such as images read or a step made."""
    global _signs
    _signs += 1


def signs() -> int:
    """Returns the number of signs so far. Only a change since the last call has a meaning."""
    if _unmeasured:
        beat()
    return _signs


@contextmanager
def unmeasured() -> Iterator[None]:
    """Within the block, every call of `signs` finds a new sign.

    It is for work whose progress cannot be seen, such as a download, or the wait for another process's download.
    """
    global _unmeasured
    _unmeasured += 1
    try:
        yield
    finally:
        _unmeasured -= 1
