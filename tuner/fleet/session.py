"""A search on a cluster, from joining it to the last trial."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, Self

from trainables.running.messages import Position
from tuner.fleet.baseline import Baseline
from tuner.fleet.bridge import Bridge
from tuner.fleet.claims import State
from tuner.fleet.housekeeping import LOOK as HOUSE_LOOK
from tuner.fleet.housekeeping import Housekeeping
from tuner.fleet.joining import joined_slots
from tuner.fleet.noting import FleetNotes
from tuner.fleet.repeated import Repeated
from tuner.fleet.tuning import tune_with
from tuner.fleet.waiting import tell_wait
from tuner.fleet.wishes import Wishes
from tuner.runs.run import Run
from tuner.search.allocation import concurrent_trials
from tuner.search.core import Core
from tuner.search.listener import Listener
from tuner.search.study import Study


class Screen(Listener, Protocol):
    """The terminal while a search runs, as a context."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...

    def say(self, note: str) -> None:
        """What is going on before the first trial."""

    def waits(self, why: str) -> None:
        """What the search waits for; empty where it goes on."""

    def ends(self, why: str) -> None:
        """Why no more trials are proposed."""

    def warns(self, line: str) -> None:
        """What a user should know, such as a disc with little room; empty where that is over."""

    def follow(self, positions: Mapping[str, Position]) -> None:
        """Where the trials are within their epochs."""


def run_search(
    run: Run,
    study: Study,
    screen: Callable[[int], Screen],
    boards: Sequence[Callable[[], Listener]] = (),
    wait: float = 0.0,
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Runs what is left of a search.

    Args:
        run: of the search.
        study: of the run.
        screen: makes the terminal's view, from how many trials run at once.
        boards: make what else is told, once the untrained encoder has been scored.
        wait: seconds to wait for a cluster that has no room for a trial; 0 to refuse it at once.
        say: called with a line for the terminal before there is a view.

    Raises:
        UserError: the cluster has no room for a trial, or the space is at fault.
        BrokenOff: the cluster had no room for a trial in all the time to wait.
        TrialFailure: the untrained encoder cannot be scored, or trials failed alike.
    """
    spec = study.spec
    left = spec.trials - sum(trial.state.is_finished() for trial in study.trials())
    if left <= 0:
        return
    study.pass_over_failures()
    core = Core(study)
    with (
        joined_slots(spec.address, spec.resources, core.useful_slots, run, wait, say) as (groups, there),
        screen(concurrent_trials(there, spec.resources, left)) as shown,
        Wishes(run).heard() as wishes,
    ):
        baseline, keeping = Baseline(run, spec), Housekeeping(run, groups.hold, shown.warns)
        shown.say("starting workers" + ("" if baseline.known else ", then the untrained encoder is scored"))

        def listeners() -> list[Listener]:
            return [*(board() for board in boards), shown]

        bridge, notes = Bridge(core, run, groups, listeners, None if baseline.known else baseline), FleetNotes(run)
        bridge.say, bridge.admits, wishes.search = shown.ends, functools.partial(keeping.admits, bridge), bridge

        def look(state: State) -> None:
            notes.note(state, keeping.closed or groups.waiting, bridge.look(state), keeping.warnings)
            shown.follow(state.positions)

        groups.on_wait, groups.on_look = functools.partial(tell_wait, run, shown.waits), look
        with Repeated(lambda: keeping.look(bridge), HOUSE_LOOK, "housekeeping"):
            tune_with(bridge)
