"""One trial on one slot, without Tune: a full run."""

import functools
from collections.abc import Callable

from trainables.config import trial as c
from trainables.running.messages import Metrics, Work
from tuner.fleet.cluster import cluster
from tuner.fleet.slots import Conversation, Slots
from tuner.fleet.watch import Watch
from tuner.plan.resources import Resources
from tuner.runs.hints import resume_hint
from tuner.runs.run import Run
from tuner.search.allocation import concurrent_trials


def converse(
    groups: Slots, run: Run, key: str, config: c.TrialConfig, hear: Callable[[Metrics], None] | None = None
) -> list[Metrics]:
    """Runs one trial on a slot, without Tune; returns its metric history.

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


def one_slot(
    run: Run,
    address: str,
    wanted: Resources,
    key: str,
    config: c.TrialConfig,
    hear: Callable[[Metrics], None],
    say: Callable[[str], None],
    follow: Callable[[str, int, int | None], None],
) -> list[Metrics]:
    """A full run: one trial on one slot, with its own Ray session.

    Args:
        run: for the trial's folder.
        address: of the cluster.
        wanted: resources of the slot.
        key: of the trial.
        config: of the trial.
        hear: called with each epoch's metrics.
        say: called with a line for the terminal.
        follow: called with how far the trial is: what is counted, how many are done, and of how many.
    """
    with cluster(address, run) as nodes:
        concurrent_trials(nodes, wanted, 1)
        with (
            Slots(1, wanted, run.ray_folder, local=address == "local") as groups,
            Watch(groups.board, resume_hint(run)),
        ):
            groups.on_wait = functools.partial(
                tell_wait, run, lambda why: say(f"waiting: {why}" if why else "going on")
            )
            groups.on_positions = lambda positions: follow(*positions[key]) if key in positions else None
            return converse(groups, run, key, config, hear)


def tell_wait(run: Run, say: Callable[[str], None], why: str) -> None:
    """Tells the terminal and readers of the run what a search waits for, or, where `why` is empty, that it goes on."""
    run.note(f"waiting: {why}" if why else "")
    say(why)
