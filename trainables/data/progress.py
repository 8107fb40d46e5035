"""Where a long piece of work is, for whoever looks on: loops say so with `steps` or `tell`, and `told_to` names the listener.

Each step is also a sign that this process gets on, heard or not (`pulse`). What is told changes no result.
"""

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

from trainables.data import pulse

Item = TypeVar("Item")
Listener = Callable[[str, int, int | None], None]
"""Hears what is being done, how many steps of it are done, and of how many; None where nobody knows."""

_listener: Listener | None = None
_inside = False


@contextmanager
def told_to(listener: Listener) -> Iterator[None]:
    """Within the block the listener hears of all work of this process."""
    global _listener, _inside
    before = _listener, _inside
    _listener, _inside = listener, False
    try:
        yield
    finally:
        _listener, _inside = before


def tell(what: str, done: int, total: int | None = None) -> None:
    """Says how far something is; unheard inside `steps`, of which it is a part."""
    pulse.beat()
    if _listener is not None and not _inside:
        _listener(what, done, total)


def steps(what: str, items: Iterable[Item], total: int | None = None) -> Iterator[Item]:
    """The items, one step each. Inside another `steps` they are silent: only the outermost loop is told.

    Args:
        what: is done, such as "epochs of the linear classifier".
        items: to go through.
        total: how many there are, where they do not know it themselves.
    """
    global _inside
    if _listener is None or _inside:  # without a listener nothing is kept, for workers may be threads of one process
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
