"""Which ends of a driver the faults of a case explain."""

import contextlib
import math
import time
from collections.abc import Iterator

BROKEN_OFF = 3  # exit status of a driver whose switchboard or disc is gone
DISC_AFTER = 30.0  # seconds for which a driver may still end of a disc that was full: it ends its workers first


class Ends:
    """The ends of drivers that faults explain.

    A fault explains one end: that of the driver that lived when it came. A full disc explains every end while it lasts
    and shortly after, because a search that is resumed on it ends again.
    """

    def __init__(self) -> None:
        self._expected: set[tuple[int, int]] = set()
        self._full_until = -math.inf

    def expect(self, driver: int, status: int) -> None:
        """Notes a fault by which a driver may end with a status. Drivers are numbered; each one ends once."""
        self._expected.add((driver, status))

    @contextlib.contextmanager
    def full_disc(self) -> Iterator[None]:
        """The disc is full for the life of the block."""
        self._full_until = math.inf
        try:
            yield
        finally:
            self._full_until = time.monotonic() + DISC_AFTER

    def explain(self, driver: int, status: int) -> bool:
        """Whether a fault explains that a driver has just ended with a status."""
        full = time.monotonic() <= self._full_until
        return (driver, status) in self._expected or (full and status == BROKEN_OFF)
