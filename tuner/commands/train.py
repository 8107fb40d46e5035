"""`tuner train`: a full run of one configuration."""

import argparse
import sys
from collections.abc import Mapping, Sequence

from trainables.config import equivalence
from trainables.config import trial as c
from trainables.config.errors import TrialFailure, UserError
from trainables.config.settings import read_settings, read_yaml
from trainables.running.messages import Metrics
from tuner.commands import checks
from tuner.commands.searching import first_words, seconds_to_wait
from tuner.plan import jobs, reading, spec
from tuner.plan.objective import Objective
from tuner.report import certainty
from tuner.report.bars import Bars, about
from tuner.report.view import best_of
from tuner.report.wording import of_images
from tuner.runs import run as runs
from tuner.runs.beginning import beginning, unused
from tuner.runs.hints import command, shown

QUIET = 60.0  # seconds between two plain lines within an epoch


def run(arguments: argparse.Namespace) -> int:
    """Trains one configuration to its end; returns the exit status."""
    jobs.require_kept(arguments.run, "--run")
    config = _configured(arguments)
    content = {
        "name": "train",
        "address": arguments.address or jobs.default_address(),
        "trial": config.plain(),
        "resources": {
            "workers": arguments.workers,
            "cpus_per_worker": arguments.cpus_per_worker,
            "gpus_per_worker": arguments.gpus_per_worker,
        },
    }
    try:
        alone = reading.settled(spec.parse(content))
    except UserError as error:
        raise UserError(str(error).removeprefix("trial.")) from None  # as `--set` spells it here
    path = arguments.run or unused(runs.RUNS, f"train-{arguments.config.stem}")
    checks.require_all(alone, path)
    if note := spec.width_note(alone):
        print(note)
    made = runs.Run.create(path, "train", alone.plain(), config.seed)
    if made.replaces:
        print(f"{made.path}: replaced; nothing had been trained in it")
    with beginning(made, launched=True):
        return continue_run(made, alone, arguments.wait)


def _configured(arguments: argparse.Namespace) -> c.TrialConfig:
    """The trial that the command line asks for; prints what the equivalence rule makes of it."""
    values = read_settings(arguments.set) | ({} if arguments.epochs is None else {"train.epochs": arguments.epochs})
    stated = read_yaml(arguments.config)
    if "trial" in stated:  # no key of a trial
        start = command("tuner", "launch", arguments.config)
        raise UserError(f"{arguments.config}: is a search; start it with: {start}")
    config = c.changed(stated, values)
    if arguments.batch_size and arguments.batch_size != config.train.batch_size:
        before, config = config, equivalence.scaled_batch(config, arguments.batch_size)
        print(equivalence.line(before, config))
    elif rule := equivalence.own_line(config):
        print(rule)
    return config


def continue_run(run: runs.Run, alone: spec.SearchSpec, wait: float | None = None) -> int:
    """Trains from the newest checkpoint to the end; returns the exit status.

    Args:
        run: the run directory.
        alone: what was asked for, as a search of one trial.
        wait: seconds to wait for a cluster that has no room for the trial yet; None for the default.
    """
    from trainables.running import checkpoint

    print(f"full run -> {run.path}", flush=True)
    newest = checkpoint.newest(run.trial_folder(runs.FULL))
    history = newest.values["history"] if newest else []
    if not history or history[-1]["epoch"] < alone.trial.train.epochs:
        _train(run, alone, seconds_to_wait(wait, alone.address))
        newest = checkpoint.newest(run.trial_folder(runs.FULL))
    if newest is None:
        raise TrialFailure(f"no valid checkpoint was left in {run.trial_folder(runs.FULL)}")
    print(_best_line(newest.values["history"], alone.objective))
    print(f"checkpoint: {shown(newest.path)}\nnext:\n  {command('tuner', 'evaluate', newest.path)}")
    print(f"  {command('tensorboard', '--logdir', run.tensorboard_folder)}")
    return 0


def _best_line(history: Sequence[Mapping[str, float]], objective: Objective) -> str:
    """The score after the last epoch, how sure it is, and the best score."""
    metric, images = objective.metric, certainty.images_of(history)
    best = best_of({int(metrics["epoch"]): metrics[metric] for metrics in history}, objective.mode)
    assert best is not None
    interval = certainty.of_score(history[-1][metric], metric, images)
    sure = f" (95 % {certainty.shown(interval)}, of {of_images(images)})" if interval else ""
    last = f"{metric} {history[-1][metric]:.4f} after the last epoch{sure}"
    return f"{last}; {best.score:.4f} after epoch {best.epoch}, the best on validation"


def time_left(heard: Sequence[Mapping[str, float]], epochs: int) -> float:
    """Seconds that the epochs to come take at the pace of this life of the trial.

    Args:
        heard: metrics of all epochs so far, those of earlier lives included.
        epochs: of the whole run.
    """
    last, begun = heard[-1], heard[-1]["time/first_step_at"]
    before = max((metrics["epoch"] for metrics in heard if metrics["time/first_step_at"] < begun), default=0.0)
    return (last["time/measured_at"] - begun) / (last["epoch"] - before) * (epochs - last["epoch"])


def _train(run: runs.Run, alone: spec.SearchSpec, wait: float) -> None:
    """Trains on as many slots as it can use, with a line for each epoch."""
    from tuner.report.tensorboard import TrialWriter

    metric, epochs = alone.objective.metric, alone.trial.train.epochs
    board, folder = run.tensorboard_folder / runs.FULL, run.trial_folder(runs.FULL)
    writer = TrialWriter(board, alone.trial, alone.objective, trial=folder)
    heard: list[Metrics] = []
    bars = Bars(sys.stdout, quiet=QUIET)

    def hear(metrics: Metrics) -> None:
        if writer.epoch == 0:
            writer.show_views(run.trial_views(runs.FULL))
        writer.add(metrics)
        heard.append(metrics)
        left = time_left(heard, epochs)
        line = f"epoch {metrics['epoch']:.0f}/{epochs}  loss {metrics['loss']:.4f}  {metric} {metrics[metric]:.4f}"
        bars.say(line + (f"  {about(left)} left" if left else ""))

    try:
        with bars:
            bars.say(first_words(alone.address))
            bars.tell("starting", 0)

            from tuner.fleet import single  # Ray, which takes a while

            single.train_alone(
                run, alone.address, alone.resources, runs.FULL, alone.trial, hear, bars.say, bars.tell, wait
            )
    except TrialFailure as failure:
        raise TrialFailure(f"{failure}\n  log: {run.trial_log(runs.FULL, str(failure))}") from None
    finally:
        writer.close()
