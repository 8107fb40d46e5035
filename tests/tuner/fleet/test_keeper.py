"""A slot whose launch lacks room, or fails: what its keeper says, and for how long. No Ray."""

import asyncio
import logging
import threading
from pathlib import Path
from typing import Any, cast
from unittest.mock import MagicMock

import pytest
from ray.train import ControllerError

from tests.tuner.fleet.boards import board_of
from tests.tuner.fleet.test_kill import wait_for
from tuner.fleet import keeper as module
from tuner.fleet.following import what_lacks
from tuner.fleet.keeper import Keeper, Site
from tuner.fleet.nodes import Room
from tuner.plan.resources import Resources

LACKED = TimeoutError("the worker group did not come up in 10 s")


class Launches:
    """Stands in for Ray Train: each launch lasts until the test says how it ends.

    Attributes:
        begun: released once for each launch.
        up: whether the workers of the launch that ends had been up.
    """

    def __init__(self) -> None:
        self.begun, self._ends, self.up = threading.Semaphore(0), threading.Semaphore(0), False
        self._why: BaseException | None = None

    def launch(self, site: Site, slot: int) -> BaseException | None:
        self.begun.release()
        assert self._ends.acquire(timeout=20)
        return self._why

    def end(self, why: BaseException, up: bool = False) -> None:
        """Ends the launch, and waits for the next one."""
        self._why, self.up = why, up
        self._ends.release()
        assert self.begun.acquire(timeout=20)

    def end_for_good(self) -> None:
        self._ends.release()


class PlayedBoard:
    """The handle of a switchboard in the test's own process: an answer is there at once."""

    def __init__(self, slots: int):
        self.switchboard = asyncio.run(board_of(slots, attempts=1))

    def __getattr__(self, name: str) -> MagicMock:
        method = getattr(self.switchboard, name)
        return MagicMock(remote=lambda *arguments: asyncio.run(method(*arguments)))


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Launches:
    launches = Launches()
    monkeypatch.setattr(module, "_launch", launches.launch)
    monkeypatch.setattr(module, "_lacked_room", lambda why: why is LACKED)
    monkeypatch.setattr(module, "RELAUNCH_WAIT", 0.0)
    monkeypatch.setattr(Keeper, "_came_up", lambda keeper, why: launches.up)
    return launches


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> PlayedBoard:
    monkeypatch.setattr(module.ray, "get", lambda answer: answer)
    return PlayedBoard(slots=2)


def test_a_slot_that_is_launched_again_for_lack_of_room_says_so_until_its_workers_were_up(
    launches: Launches, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    room = MagicMock(take=lambda slot: "")
    site = Site(MagicMock(), Resources(workers=2), tmp_path, cast(Room, room), frozenset)
    keeper = Keeper(0, site)
    try:
        assert launches.begun.acquire(timeout=20)
        assert keeper.lacks == "", "its first launch lacks nothing yet"
        with caplog.at_level(logging.WARNING):
            for _ in range(2):
                launches.end(LACKED)
                assert keeper.lacks.startswith("no room for 2 workers of 1 CPU: other work took what was free")
        assert len(caplog.records) == 2 and not any(record.exc_info for record in caplog.records)
        launches.end(RuntimeError("a controller died"), up=True)
        assert keeper.lacks == ""
        assert caplog.records[-1].exc_info, "what is not known beforehand has its traceback in the log"
    finally:
        keeper.end()
        launches.end_for_good()
        keeper.thread.join(20)


def test_a_slot_that_is_given_up_is_launched_again_and_holds_nothing_until_then(
    launches: Launches,
    board: PlayedBoard,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its node may be mended while another slot works, which may have been starting when it was given up."""
    room = MagicMock(take=lambda slot: "")
    keeper = Keeper(0, Site(cast(Any, board), Resources(), tmp_path, cast(Room, room), frozenset))
    try:
        assert launches.begun.acquire(timeout=20)
        for launch in range(1, module.LAUNCH_FAILURES + 1):
            assert board.switchboard.roster.groups[0].broken is None
            launches.end(ControllerError(RuntimeError("no GPU")))
            assert keeper.lacks == f"launch {launch} of its worker group failed: RuntimeError: no GPU"
        assert board.switchboard.roster.groups[0].broken == f"slot 0: {keeper.lacks}"
        assert caplog.records[-1].getMessage() == f"slot 0: {keeper.lacks}; launched again"
        assert not board.switchboard.roster.hopeless, "slot 1 may come up"
        launches.end(LACKED)
        assert keeper.lacks.startswith("no room for a worker of 1 CPU")
        launches.end(RuntimeError("a controller died"), up=True)
        assert keeper.lacks == ""
        assert not keeper.waits, "it is being launched"
        monkeypatch.setattr(module, "RELAUNCH_WAIT", 60.0)
        launches.up = False
        launches.end_for_good()
        wait_for(lambda: keeper.waits, "rest before the next launch", 20)
    finally:
        keeper.end()
        launches.end_for_good()
        keeper.thread.join(20)


@pytest.mark.parametrize(
    ("lacks", "starting", "why"),
    [
        ({0: "", 1: ""}, [0, 1], ""),
        ({0: "outrun", 1: "outrun"}, [0, 1], "outrun"),
        ({0: "outrun", 1: ""}, [0, 1], ""),
        ({0: "outrun", 1: "no room"}, [0], "outrun"),
        ({0: "", 1: "no room"}, [0], ""),
        ({0: "", 1: "no room"}, [], "no room"),
        ({}, [], ""),
    ],
)
def test_what_lacks_is_said_also_while_slots_start_again(lacks: dict[int, str], starting: list[int], why: str) -> None:
    assert what_lacks(lacks, starting) == why
