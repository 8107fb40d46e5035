"""Waiting: for a cluster that has no room for a trial yet, and what is told of it."""

import time
from collections.abc import Callable

from trainables.config.errors import BrokenOff, UserError
from tuner.fleet import nodes
from tuner.fleet.accounts import Account
from tuner.plan.resources import Resources
from tuner.runs.run import Run
from tuner.search.allocation import concurrent_trials

ROOM_LOOK = 5.0  # seconds between two looks for a node that has room


def wait_for_room(
    run: Run, resources: Resources, seconds: float, say: Callable[[str], None], account: Account | None, useful: int = 1
) -> list[nodes.Amounts]:
    """Waits until the cluster has nodes with room for a trial, whether or not others use them now.

    Args:
        run: whose readers are told what is waited for.
        resources: of a trial.
        seconds: how long to wait; 0 to refuse at once.
        say: called with a line for the terminal when the reason to wait changes.
        account: by which an autoscaler is told what is needed.
        useful: how many slots could be used.

    Returns:
        All resources of each node.

    Raises:
        UserError: there is no room, and `seconds` is 0.
        BrokenOff: there was none in all this time.
    """
    end, told = time.monotonic() + seconds, ""
    while True:
        usable = list(nodes.look().usable.values())
        try:
            concurrent_trials(usable, resources, 1)
            break
        except UserError as lack:
            if not seconds:
                raise
            if time.monotonic() >= end:
                raise BrokenOff(f"{lack}; waited for {_words(seconds)}") from None
            if str(lack) != told:
                told = str(lack)
                run.note(f"waiting: {told}")
                say(f"waiting: {told}")
        if account is not None:
            account.allowance(0, useful)
        time.sleep(max(0.0, min(ROOM_LOOK, end - time.monotonic())))
    if told:
        run.note("")
        say("going on")
    return usable


def tell_wait(run: Run, say: Callable[[str], None], why: str) -> None:
    """Tells the terminal and readers of the run what a search waits for, or, where `why` is empty, that it goes on."""
    run.note(f"waiting: {why}" if why else "")
    say(why)


def _words(seconds: float) -> str:
    return f"{seconds / 60:g} minutes" if seconds >= 60 else f"{seconds:g} s"
