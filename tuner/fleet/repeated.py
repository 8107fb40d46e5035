"""Something that is done again and again while a driver works."""

import logging
import threading
from collections.abc import Callable

from tuner.fleet.nodes import first_line

log = logging.getLogger(__name__)
END_WAIT = 10.0  # seconds for the last call to end


class Repeated:
    """A context with a thread that calls a function every few seconds. What the function raises is logged.

    Args:
        call: the function.
        seconds: between two calls, and before the first.
        name: of the thread.
    """

    def __init__(self, call: Callable[[], None], seconds: float, name: str):
        self._call, self._seconds = call, seconds
        self._soon, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name=name)

    def _run(self) -> None:
        told = ""
        while True:
            self._soon.wait(self._seconds)
            self._soon.clear()
            if self._over.is_set():
                return
            try:
                self._call()
            except (Exception, SystemExit) as error:  # of any kind, such as of Ray while its head does not answer
                if first_line(error) != told and not self._over.is_set():
                    told = first_line(error)
                    log.warning("%s: %s", self._thread.name, told, exc_info=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def soon(self) -> None:
        """Has the next call made at once."""
        self._soon.set()

    def end(self) -> None:
        """Has no further call made, without a wait for one that is being made."""
        self._over.set()
        self._soon.set()

    def join(self, seconds: float = END_WAIT) -> None:
        """Waits for the thread, which `end` ends."""
        self._thread.join(seconds)

    def __enter__(self) -> "Repeated":
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self.end()
        if kind is None:  # otherwise the call may hang with what broke off
            self.join()
