"""One trial on its slots, without Tune: a full run."""

import dataclasses
import threading
import time
from collections.abc import Callable

from trainables.config import trial as c
from trainables.running.messages import Metrics, Work
from tuner.fleet.claims import State
from tuner.fleet.conversation import Conversation
from tuner.fleet.following import slots_seen
from tuner.fleet.housekeeping import LOOK as HOUSE_LOOK
from tuner.fleet.housekeeping import Housekeeping
from tuner.fleet.joining import joined_slots
from tuner.fleet.noting import FleetNotes
from tuner.fleet.repeated import Repeated
from tuner.fleet.slots import Slots
from tuner.fleet.wishes import Wishes
from tuner.plan.resources import Resources
from tuner.runs.run import Run
from tuner.search.events import SlotsSeen
from tuner.search.lending import Borrower, counts_to, lend, slots_for
from tuner.search.speeds import Speeds
from tuner.search.state import widths_of


def converse(
    groups: Slots, run: Run, key: str, config: c.TrialConfig, hear: Callable[[Metrics], None] | None = None
) -> list[Metrics]:
    """Runs one trial, without Tune; returns its metric history.

    Args:
        groups: the slots.
        run: for the trial's folder.
        key: of the trial.
        config: of the trial.
        hear: called with each epoch's metrics.

    Raises:
        TrialFailure: the trial ended with an error.
    """
    work = Work(key, config.plain(), str(run.trial_folder(key)))
    talk, history = Conversation(groups.board, key, work), list[Metrics]()
    try:
        while (report := talk.take()) is not None:
            history.append(report.metrics)
            if hear is not None:
                hear(report.metrics)
            if report.epoch >= config.train.epochs:
                break
    finally:
        talk.release()
    return history


class OneTrial:
    """Has a single trial hold as many slots as pay, whenever slots come and go.

    Args:
        groups: the slots.
        key: of the trial.
        widths: numbers of workers that it may have, ascending; the first one is that of a slot.
        epochs: of the trial.
        every: how many epochs it trains from one that it tells to the next.
        clock: returns the time, in seconds since 1970.
    """

    def __init__(
        self,
        groups: Slots,
        key: str,
        widths: tuple[int, ...],
        epochs: int,
        every: int,
        clock: Callable[[], float] = time.time,
    ):
        self._groups, self._epochs, self._smallest, self._clock = groups, epochs, widths[0], clock
        self._speeds, self._began, self._lock = Speeds(self._smallest), clock(), threading.Lock()
        choices = [width // self._smallest for width in widths]
        self._trial = Borrower(key, choices, slots=1, epochs_left=epochs, every=every, since=None)

    @property
    def width(self) -> int:
        """Workers that it is to have."""
        return self._trial.slots * self._smallest

    def hear(self, metrics: Metrics) -> None:
        """Takes an epoch's metrics, which tell how fast it is on its present width."""
        ended, left = metrics.get("time/measured_at", 0.0), self._epochs - int(metrics["epoch"])
        since = ended if ended >= self._began else None  # an epoch that an earlier driver heard is told again
        with self._lock:
            self._speeds.measure(self._trial.key, metrics)
            self._trial = dataclasses.replace(self._trial, epochs_left=left, since=since)

    def look(self, state: State) -> None:
        """Takes a look at the slots. The thread of the slots comes here, and the main thread to `hear`."""
        key, choices = self._trial.key, self._trial.choices
        slots, held = slots_seen(state.slots, [key])
        with self._lock:
            count = lend(self._speeds, [self._trial], SlotsSeen(self._clock(), slots, held), 0)[key]
            self._groups.useful = slots_for(self._speeds, [choices], sum(slots.values()))
            if count != self._trial.slots:
                self._trial = dataclasses.replace(self._trial, slots=count)
                self._groups.resize({key: counts_to(self._speeds, choices, count)})


def train_alone(
    run: Run,
    address: str,
    wanted: Resources,
    key: str,
    config: c.TrialConfig,
    hear: Callable[[Metrics], None],
    say: Callable[[str], None],
    follow: Callable[[str, int, int | None], None],
    wait: float = 0.0,
) -> list[Metrics]:
    """A full run: one trial on as many slots as it can use, with its own Ray session.

    Args:
        run: for the trial's folder.
        address: of the cluster.
        wanted: resources of the trial.
        key: of the trial.
        config: of the trial.
        hear: called with each epoch's metrics.
        say: called with a line for the terminal.
        follow: called with how far the trial is: what is counted, how many are done, and of how many.
        wait: seconds to wait for a cluster that has no room for the trial; 0 to refuse it at once.
    """
    widths = widths_of(wanted, config)
    useful = widths[-1] // wanted.smallest
    with joined_slots(address, wanted, useful, run, wait, say) as (groups, _), Wishes(run).heard():
        trial = OneTrial(groups, key, widths, config.train.epochs, config.evaluation.every_epochs)
        notes = FleetNotes(run)
        keeping = Housekeeping(run, groups.hold, lambda line: say(f"warning: {line}") if line else None)
        keep = config.train.keep_checkpoints

        def look(state: State) -> None:
            trial.look(state)
            notes.note(state, groups.waiting, {key: trial.width}, keeping.warnings)
            if key in state.positions:
                follow(*state.positions[key])

        groups.on_look = look

        def heard(metrics: Metrics) -> None:
            trial.hear(metrics)
            hear(metrics)

        with Repeated(lambda: keeping.look_alone(key, keep), HOUSE_LOOK, "housekeeping"):
            return converse(groups, run, key, config, heard)
