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
        seconds: between two calls.
        name: of the thread.
    """

    def __init__(self, call: Callable[[], None], seconds: float, name: str):
        self._call, self._seconds, self._over = call, seconds, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name=name)

    def _run(self) -> None:
        told = ""
        while not self._over.wait(self._seconds):
            try:
                self._call()
            except Exception as error:  # of any kind, such as of Ray while its head does not answer
                if first_line(error) != told:
                    told = first_line(error)
                    log.warning("%s: %s", self._thread.name, told, exc_info=True)

    def __enter__(self) -> "Repeated":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._over.set()
        if kind is None:  # otherwise the call may hang with what broke off
            self._thread.join(END_WAIT)
