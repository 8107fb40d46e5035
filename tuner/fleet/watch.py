"""Watches over what a search needs: Ray's head, this node's Ray, and the switchboard.

Ray itself ends its driver after a minute without its head, and does not say how to go on. A dead raylet or switchboard
shows as whatever error comes first.
"""

import logging
import os
import signal
import socket
import sys
import threading
import time

import ray

from trainables.config.errors import BrokenOff, TrialFailure, UserError
from tuner.fleet.board import Board

log = logging.getLogger(__name__)
LOOK_EVERY = 1.0  # seconds
ANSWER_WITHIN = 2.0  # seconds for a connection, or an answer of the switchboard
SILENCE = 5.0  # seconds without an answer after which something is gone
REMOTE_SILENCE = 30.0  # the same of a head on another machine, which may be restarted; Ray ends its driver after 60
LAST_LOOK = 3 * ANSWER_WITHIN + LOOK_EVERY  # seconds for the last look to end
ORDERLY = 10.0  # seconds for the main thread to end after it was interrupted; it may hang in a call of Ray


class Watch:
    """A context around the work of a driver; if something is gone, it interrupts the block, which raises `BrokenOff`.

    Args:
        board: handle of the switchboard.
        hint: how to go on, for the last line of a driver that cannot end in order.
    """

    def __init__(self, board: Board, hint: str):
        self.board, self.hint = board, hint
        self.gone: str | None = None
        self.over = threading.Event()
        here = ray.get_runtime_context().get_node_id()
        node = next(node for node in ray.nodes() if node["NodeID"] == here)
        host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
        address = node["NodeManagerAddress"]
        self.places = {
            f"Ray's head (its GCS at {host}:{port}) is gone": (
                host,
                int(port),
                SILENCE if host == address else REMOTE_SILENCE,
            ),
            f"Ray on this node (the raylet at {address}) is gone": (address, int(node["NodeManagerPort"]), SILENCE),
        }
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Watch":
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self.over.set()
        if kind is not None and not issubclass(kind, KeyboardInterrupt | UserError | TrialFailure | BrokenOff):
            # what was raised may come of it, before the thread has seen it
            self.gone = self.gone or next(iter(self._silent()), None)
        if self.gone is not None:
            raise BrokenOff(self.gone)
        if kind is None or not issubclass(kind, KeyboardInterrupt | BrokenOff):  # those leave Ray as it is
            self.thread.join(LAST_LOOK)  # Ray ends a process in which a thread still calls it after its shutdown

    def _silent(self) -> dict[str, float]:
        """What does not answer now, with the seconds after which it counts as gone."""
        silent = {}
        for name, (host, port, patience) in self.places.items():
            try:
                socket.create_connection((host, port), timeout=ANSWER_WITHIN).close()
            except OSError:
                silent[name] = patience
        if not silent:
            try:
                ray.get(self.board.__ray_ready__.remote(), timeout=ANSWER_WITHIN)
            except ray.exceptions.GetTimeoutError:  # busy
                pass
            except ray.exceptions.RayError:
                silent["the switchboard, the search's actor on the head, died"] = SILENCE
        return silent

    def _watch(self) -> None:
        since: dict[str, float] = {}
        while not self.over.wait(LOOK_EVERY):
            silent, now = self._silent(), time.monotonic()
            since = {name: since.get(name, now) for name in silent}
            if gone := [name for name, patience in silent.items() if now - since[name] >= patience]:
                self._end(gone[0])
                return

    def _end(self, gone: str) -> None:
        """Interrupts the main thread, and ends the process where that thread hangs in a call of Ray."""
        if self.over.is_set():  # the block has ended while this looked
            return
        log.error("%s", gone)
        self.gone = gone
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGTERM)  # SIGINT may be ignored, see `wishes.interrupt`
        if not self.over.wait(ORDERLY):
            print(f"error: {gone}; {self.hint}", file=sys.__stderr__, flush=True)
            os._exit(3)
