"""Requests of other processes to the driver that holds a run: small files in the run's folder.

A command such as `tuner pause` writes a request and waits for its answer. The driver looks about once a second. It
takes a request, by renaming its file, before it carries it out; a sender that waits no longer withdraws its request by
removing that file. Only one of the two succeeds. Both sides only write files under a temporary name and rename them, so
this works on any storage that both of them see.
"""

import json
import logging
import re
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from trainables.config.errors import BrokenOff
from tuner.runs.files import write_atomically

log = logging.getLogger(__name__)
NAME = re.compile(r"\d{6}-[0-9a-f]{8}")
REQUEST, TAKEN, ANSWER = ".request", ".taken", ".answer"
LOOK = 0.2  # seconds between two looks for an answer
PATIENCE = 60.0  # seconds that a sender waits for an answer: the driver may be starting Ray

Action = Literal["pause", "promote", "stop", "set"]
"""What is asked for. Without the key of a trial, "pause" and "stop" are meant for the whole run."""


@dataclass(frozen=True)
class Request:
    """What another process asks of the driver.

    Attributes:
        name: of the request; names sort in the order in which the requests were sent.
        action: what is to be done.
        key: of the trial that it is to be done with; None: with the whole run.
        values: of "set", by dotted key of the spec.
    """

    name: str
    action: Action
    key: str | None = None
    values: Mapping[str, object] = field(default_factory=dict)


class Requests:
    """The folder with the requests of a run.

    Args:
        folder: of the requests; it is made by the first request.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    # the sender

    def send(self, action: Action, key: str | None = None, values: Mapping[str, object] | None = None) -> Request:
        """Sends a request to the driver.

        Raises:
            OSError: it cannot be written.
        """
        self.folder.mkdir(exist_ok=True)
        number = 1 + max((int(name[:6]) for name in self._names(REQUEST, TAKEN, ANSWER)), default=0)
        request = Request(f"{number:06d}-{uuid.uuid4().hex[:8]}", action, key, dict(values or {}))
        content = {"action": action, "key": key, "values": request.values}
        write_atomically(self._path(request.name, REQUEST), json.dumps(content))
        return request

    def wait(self, request: Request, held: Callable[[], bool], patience: float = PATIENCE) -> str:
        """Waits until the driver has answered a request, and removes the answer.

        Args:
            request: as it was sent.
            held: says whether a driver still holds the run.
            patience: seconds to wait for the driver to take it, and then for the answer.

        Returns:
            Why the driver refuses it; empty where the driver carries it out.

        Raises:
            BrokenOff: the driver ended, or did not take the request in time, which is withdrawn then; or it has taken
                the request, and gave no answer.
        """
        end = time.monotonic() + patience
        while True:
            alive = held()  # before the look for an answer, which a driver may give right before it ends
            try:
                return self._answered(request)
            except LookupError:
                pass
            late = time.monotonic() - end
            if not alive or late > 0:
                why = (
                    f"its driver has not answered for {patience:g} s"
                    if alive
                    else "its driver ended before it was asked"
                )
                if self._withdrawn(request):
                    raise BrokenOff(f"{self.folder.parent}: {why}; nothing was changed")
                if not alive or late > patience:
                    why = "has taken the request, and has not answered" if alive else "ended while it carried this out"
                    raise BrokenOff(f"{self.folder.parent}: its driver {why}; `tuner status` shows what was changed")
            time.sleep(LOOK)

    def _withdrawn(self, request: Request) -> bool:
        """Withdraws a request; returns whether that came before the driver took it."""
        try:
            self._path(request.name, REQUEST).unlink()
        except FileNotFoundError:
            return False
        return True

    def _answered(self, request: Request) -> str:
        """The driver's answer.

        Raises:
            LookupError: there is none yet.
        """
        path = self._path(request.name, ANSWER)
        try:
            refused = str(json.loads(path.read_text())["refused"])
        except FileNotFoundError:
            if any(self._path(request.name, suffix).exists() for suffix in (REQUEST, TAKEN)):  # in this order
                raise LookupError from None
            if path.exists():  # it was answered between the two looks
                return self._answered(request)
            return ""  # carried out by a driver that had no room for an answer
        path.unlink(missing_ok=True)
        return refused

    # the driver

    def clear(self) -> None:
        """Refuses all requests that are there, for they were meant for a driver that has ended; removes old answers."""
        for name in self._names(ANSWER):
            self._path(name, ANSWER).unlink(missing_ok=True)
        for request in self.poll():
            self.answer(request, "the driver that it was meant for has ended; try again")
        for name in self._names(TAKEN):
            self._answer(name, "the driver that took it has ended; `tuner status` shows what was changed")

    def poll(self) -> list[Request]:
        """The requests that were not taken, in the order in which they were sent. A damaged one is removed."""
        requests = []
        for name in self._names(REQUEST):
            path = self._path(name, REQUEST)
            try:
                content = json.loads(path.read_text())
                if content["action"] not in get_args(Action):
                    raise ValueError(f"no action is named {content['action']!r}")
                requests.append(Request(name, content["action"], content["key"], dict(content["values"])))
            except FileNotFoundError:  # its sender has taken it back
                continue
            except (OSError, ValueError, KeyError, TypeError) as error:
                log.warning("%s: is no request (%s); removed", path, error)
                path.unlink(missing_ok=True)
        return requests

    def take(self, request: Request) -> bool:
        """Takes a request, to carry it out or to refuse it; returns False where its sender has withdrawn it.

        Raises:
            OSError: the folder cannot be written.
        """
        try:
            self._path(request.name, REQUEST).rename(self._path(request.name, TAKEN))
        except FileNotFoundError:
            return False
        return True

    def answer(self, request: Request, refused: str = "") -> None:
        """Answers a request, and removes it.

        Args:
            request: as it was polled.
            refused: why it is not carried out; empty where it is.
        """
        self._answer(request.name, refused)

    def _answer(self, name: str, refused: str) -> None:
        """Answers a request, by its name."""
        try:
            write_atomically(self._path(name, ANSWER), json.dumps({"refused": refused}))
        except OSError as error:  # a full disc; the sender takes a request that is gone for one that is carried out
            log.warning("request %s cannot be answered (%s)", name, error)
        for suffix in (REQUEST, TAKEN):
            self._path(name, suffix).unlink(missing_ok=True)

    # both

    def _path(self, name: str, suffix: str) -> Path:
        return self.folder / f"{name}{suffix}"

    def _names(self, *suffixes: str) -> list[str]:
        """Names of the requests and answers that are there, in the order in which they were sent."""
        if not self.folder.is_dir():
            return []
        files = [file for file in self.folder.iterdir() if file.suffix in suffixes and NAME.fullmatch(file.stem)]
        return sorted(file.stem for file in files)
