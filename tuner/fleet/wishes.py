"""What other processes ask of a driver by `tuner pause`, `stop` and `set`, carried out in the driver."""

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from trainables.config.errors import UserError
from tuner.fleet.repeated import Repeated
from tuner.plan.reading import changed
from tuner.runs.requests import Request
from tuner.runs.run import Run
from tuner.search import events
from tuner.search.study import Study

log = logging.getLogger(__name__)
LOOK = 1.0  # seconds between two looks for requests
_asked = threading.Event()  # whether the interruption of the main thread was asked for by `tuner pause`


class Search(Protocol):
    """What is asked of a search that runs: the bridge."""

    @property
    def study(self) -> Study:
        """The study of the search."""

    @property
    def unfinished(self) -> list[str]:
        """Keys of the trials that were asked and have not ended."""

    @property
    def running(self) -> list[str]:
        """Keys of the trials that have begun, and have not paused or ended."""

    @property
    def moves(self) -> int:
        """How often a trial's segment has begun or ended."""

    def wish(self, event: events.Event) -> None:
        """Tells the core what the user wants of the search while it runs."""

    def turn(self) -> contextlib.AbstractContextManager[object]:
        """A context in which nobody else comes to the core."""


class Wishes:
    """Takes requests from the run's folder, and answers each once it is carried out or refused.

    A full run, and a search that has not begun, can only be paused.

    Args:
        run: which this process holds.

    Attributes:
        search: what else is to be asked; None while there is nothing yet.
    """

    def __init__(self, run: Run):
        self.run = run
        self.search: Search | None = None

    def look(self) -> None:
        """Carries out what was asked since the last look."""
        for request in self.run.requests.poll():
            pauses = request.action == "pause" and request.key is None
            if not pauses and self.run.kind != "train" and self.search is None:
                continue  # it waits for the search to begin
            if not self.run.requests.take(request):
                continue  # its sender has given up
            if pauses:
                log.info("request %s: the whole run pauses", request.name)
                self.run.requests.answer(request)
                interrupt()
                return
            if self.run.kind == "train":
                self.run.requests.answer(request, "is a full run, which can only be paused")
            elif self.search is not None:
                refused = self._carry_out(self.search, request)
                log.info("request %s: %s", request, refused or "carried out")
                self.run.requests.answer(request, refused)

    def _carry_out(self, search: Search, request: Request) -> str:
        """Does what is asked of a search; returns why not, or nothing."""
        if request.action == "set":
            return self._set(search, request.values)
        if request.key is None:
            search.wish(events.EndWanted())
            return ""
        with search.turn():
            if request.key not in search.unfinished:
                return f"trial {request.key}: has ended"
            wishes: Mapping[str, Callable[[str], events.Event]] = {
                "pause": events.PauseWanted,
                "promote": events.PromotionWanted,
                "stop": events.StopWanted,
            }
            search.wish(wishes[request.action](request.key))
        return ""

    def _set(self, search: Search, values: Mapping[str, object]) -> str:
        """Has the search go on with other values, which a resume will find as well."""
        with search.turn():
            before = search.study.spec
            try:
                search.study.take_over(changed(before, values))
                self.run.write_spec(search.study.spec.plain())
            except UserError as error:
                return str(error)
            except OSError as error:
                search.study.take_over(before)
                return f"{error.filename}: cannot be written ({error.strerror}), so nothing was changed"
        return ""

    @contextlib.contextmanager
    def heard(self) -> Iterator["Wishes"]:
        """Looks for requests once a second, for the life of the block."""
        with Repeated(self.look, LOOK, "requests"):
            yield self


def interrupt() -> None:
    """Interrupts the main thread as ^C does, by the signal that `cluster` handles so.

    SIGINT may be ignored: a script that starts a driver in the background has it so. `why_interrupted` gives the
    reason: an exception with words of its own loses them inside of Ray.
    """
    _asked.set()
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGTERM)


def why_interrupted() -> str:
    """Why the main thread was interrupted, in words."""
    return "paused as asked" if _asked.is_set() else "interrupted"
