"""How slots are lent to trials that run, by what their epochs have shown, and how many slots they could use. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tuner.search.allocation import Running, allot
from tuner.search.events import SlotsSeen
from tuner.search.speeds import Speeds


@dataclass(frozen=True)
class Borrower:
    """A trial that runs, to which slots may be lent.

    Attributes:
        key: of the trial.
        choices: the numbers of slots that it may have at all, ascending from 1.
        slots: how many it was given last; at least 1.
        epochs_left: how many epochs it has not told yet.
        every: how many epochs it trains from one that it tells to the next.
        since: when its present epoch began; None where that is not known, as after a start from a checkpoint.
    """

    key: str
    choices: Sequence[int]
    slots: int
    epochs_left: int
    every: int
    since: float | None


def lend(speeds: Speeds, trials: Sequence[Borrower], seen: SlotsSeen, waiting: int) -> dict[str, int]:
    """Returns how many slots each trial is to have, by its key; at least 1.

    Args:
        speeds: as measured.
        trials: those that run, in the order in which they were asked.
        seen: the slots, with the time on the clock by which epochs are measured.
        waiting: how many more trials could start now.
    """
    running = [
        Running(
            trial.key,
            trial.slots,
            speeds.gains(trial.key, trial.choices),
            _left(speeds, trial, seen.at),
            seen.held.get(trial.key, {}),
        )
        for trial in trials
    ]
    return {key: max(1, count) for key, count in allot(seen.slots, running, waiting).items()}


def _left(speeds: Speeds, trial: Borrower, at: float) -> float:
    """Returns the seconds that a trial would still take on one slot, less what it has trained since its last report."""
    pace = speeds.pace(trial.key)
    trained = 0.0 if trial.since is None else max(0.0, at - trial.since) * speeds.speed_up(trial.slots)
    untold = min(trial.epochs_left, trial.every)  # epochs until it is heard of again
    return trial.epochs_left * pace - min(trained, untold * pace)


def counts_to(speeds: Speeds, choices: Sequence[int], count: int) -> tuple[int, ...]:
    """Returns the numbers of slots that a trial may hold, ascending, up to the one that it was given.

    It holds one of the others while there are fewer slots. Widths that are no candidates, or refused, are not among
    them: a trial would be regrouped into one of them and out again for nothing.

    Args:
        speeds: as measured.
        choices: the numbers of slots that it may have at all, ascending from 1.
        count: how many it was given.
    """
    return *(number for number in speeds.lasting(choices) if number < count), count


def slots_for(speeds: Speeds, choices: Iterable[Sequence[int]], there: int) -> int:
    """Returns how many slots trials that run could use: those that are known to pay, and those for one trial's tries.

    Nodes are paid for, so no more is asked for in the hope that a width pays: one trial has room to try its widths, and
    once one of them has paid it counts for all. Slots that are there already cost nothing to try: they stay as long as
    widths that were not tried could use them.

    Args:
        speeds: as measured.
        choices: of each trial, the numbers of slots that it may have at all, ascending from 1.
        there: how many slots there are.
    """
    lasting = [speeds.lasting(numbers) for numbers in choices]
    paying = [speeds.paying(numbers)[-1] for numbers in lasting]
    most = [numbers[-1] for numbers in lasting]
    tries = max((able - pays for able, pays in zip(most, paying, strict=True)), default=0)
    return max(sum(paying) + tries, min(sum(most), there))
