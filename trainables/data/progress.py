"""Progress of long work: loops report it with `steps` or `tell`, and `told_to` sets the listener.

Each step is also a sign that this process advances, with or without a listener (`pulse`). No report changes a result.
"""

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

from trainables.data import pulse

Item = TypeVar("Item")
Listener = Callable[[str, int, int | None], None]
"""Gets what is being done, how many steps are done, and of how many; None where their number is unknown."""

_listener: Listener | None = None
_inside = False


@contextmanager
def told_to(listener: Listener) -> Iterator[None]:
    """Within the block the listener gets all reports of this process."""
    global _listener, _inside
    before = _listener, _inside
    _listener, _inside = listener, False
    try:
        yield
    finally:
        _listener, _inside = before


def tell(what: str, done: int, total: int | None = None) -> None:
    """Reports how far something is. Inside `steps` the report is dropped, because only the outer loop is reported."""
    pulse.beat()
    if _listener is not None and not _inside:
        _listener(what, done, total)


def steps(what: str, items: Iterable[Item], total: int | None = None) -> Iterator[Item]:
    """Yields the items and reports one step for each. Only the outermost of nested loops is reported.

    Args:
        what: is done, such as "epochs of the linear classifier".
        items: to go through.
        total: how many items there are, where `items` has no length.
    """
    global _inside
    if _listener is None or _inside:  # no listener, no state: workers may be threads of one process
        for item in items:
            pulse.beat()
            yield item
        return
    total = len(items) if total is None and isinstance(items, Sized) else total
    tell(what, 0, total)
    for done, item in enumerate(items, start=1):
        _inside = True
        try:
            yield item
        finally:
            _inside = False
        tell(what, done, total)
