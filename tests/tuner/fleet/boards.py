"""Switchboards within the test's own process, without Ray."""

import math

from tuner.fleet.switchboard import Switchboard


async def board_of(slots: int, attempts: int, patience: float = math.inf) -> Switchboard:
    """A switchboard that expects so many slots, from 0 on. No workers are up."""
    board = Switchboard(attempts, patience)
    for slot in range(slots):
        await board.expect(slot)
    return board
