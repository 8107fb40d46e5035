"""A full run of one configuration on Ray Train."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainables.config import equivalence
from trainables.config import trial as c
from trainables.config.errors import TrialFailure, UserError
from trainables.config.settings import read_settings, read_yaml
from tuner.plan import jobs, spec
from tuner.report import certainty
from tuner.report.bars import Bars, about
from tuner.report.view import best_of, command, of_images, shown
from tuner.runs import run as runs
from tuner.search.allocation import check_cluster

KEY = "full"
QUIET = 60.0  # seconds between two plain lines within an epoch


def start(given: argparse.Namespace) -> int:
    """`tuner train`."""
    jobs.require_kept(given.run, "--run")
    values = read_settings(given.set) | ({} if given.epochs is None else {"train.epochs": given.epochs})
    stated = read_yaml(given.config)
    if "trial" in stated:  # no key of a trial
        raise UserError(f"{given.config}: is a search; start it with: {command('tuner', 'launch', given.config)}")
    config = c.changed(stated, values)
    if given.batch_size and given.batch_size != config.train.batch_size:
        before, config = config, equivalence.scaled_batch(config, given.batch_size)
        print(equivalence.line(before, config))
    elif rule := equivalence.own_line(config):
        print(rule)
    resources = {
        "workers": given.workers,
        "cpus_per_worker": given.cpus_per_worker,
        "gpus_per_worker": given.gpus_per_worker,
    }
    content = {
        "name": "train",
        "address": given.address or jobs.default_address(),
        "trial": config.plain(),
        "resources": resources,
    }
    try:
        wanted = spec.settled(spec.parse(content))
    except UserError as error:
        raise UserError(str(error).removeprefix("trial.")) from None  # as `--set` spells it here
    check_cluster(wanted)
    run = runs.Run.create(
        given.run or runs.unused(Path("runs"), f"train-{given.config.stem}"), "train", wanted.plain(), config.seed
    )
    if run.replaces:
        print(f"{run.path}: replaced; nothing had been trained in it")
    with runs.beginning(run, launched=True):
        return continue_run(run, wanted)


def continue_run(run: runs.Run, wanted: spec.SearchSpec) -> int:
    """Trains from the newest checkpoint to the end."""
    from trainables.running import checkpoint

    print(f"full run -> {run.path}", flush=True)
    newest = checkpoint.newest(run.trial_folder(KEY))
    history = newest.values["history"] if newest else []
    if not history or history[-1]["epoch"] < wanted.trial.train.epochs:
        _train(run, wanted)
        newest = checkpoint.newest(run.trial_folder(KEY))
    if newest is None:
        raise TrialFailure(f"no valid checkpoint was left in {run.trial_folder(KEY)}")
    print(_best_line(newest.values["history"], wanted.objective))
    print(f"checkpoint: {shown(newest.path)}\nnext:\n  {command('tuner', 'evaluate', newest.path)}")
    print(f"  {command('tensorboard', '--logdir', run.tensorboard_folder)}")
    return 0


def _best_line(history: Sequence[Mapping[str, float]], objective: spec.Objective) -> str:
    """The last epoch, how sure its score is, and the best one."""
    metric, images = objective.metric, certainty.images_of(history)
    best = best_of({int(metrics["epoch"]): metrics[metric] for metrics in history}, objective.mode)
    interval = certainty.of_score(history[-1][metric], metric, images)
    sure = f" (95 % {certainty.shown(interval)}, of {of_images(images)})" if interval else ""
    last = f"{metric} {history[-1][metric]:.4f} after the last epoch{sure}"
    return f"{last}; {best['best_epoch_score']:.4f} after epoch {best['best_epoch']}, the best on validation"


def time_left(heard: Sequence[Mapping[str, float]], epochs: int) -> float:
    """Seconds that the epochs to come take at the pace of this life of the trial.

    Args:
        heard: metrics of all epochs so far, those of earlier lives included.
        epochs: of the whole run.
    """
    last, begun = heard[-1], heard[-1]["time/first_step_at"]
    before = max((metrics["epoch"] for metrics in heard if metrics["time/first_step_at"] < begun), default=0.0)
    return (last["time/measured_at"] - begun) / (last["epoch"] - before) * (epochs - last["epoch"])


def _train(run: runs.Run, wanted: spec.SearchSpec) -> None:
    from tuner.fleet import single
    from tuner.report.tensorboard import TrialWriter

    metric = wanted.objective.metric
    writer = TrialWriter(run.tensorboard_folder / KEY, wanted.trial, wanted.objective)
    epochs, heard = wanted.trial.train.epochs, list[dict[str, Any]]()
    bars = Bars(sys.stdout, quiet=QUIET)

    def hear(metrics: dict[str, Any]) -> None:
        if writer.epoch == 0:
            writer.show_views(run.trial_views(KEY))
        writer.add(metrics)
        heard.append(metrics)
        left = time_left(heard, epochs)
        line = f"epoch {metrics['epoch']:.0f}/{epochs}  loss {metrics['loss']:.4f}  {metric} {metrics[metric]:.4f}"
        bars.say(line + (f"  {about(left)} left" if left else ""))

    try:
        with bars:
            bars.say("starting Ray and its workers")
            bars.tell("starting", 0)
            single.one_slot(run, wanted.address, wanted.resources, KEY, wanted.trial, hear, bars)
    except TrialFailure as failure:
        raise TrialFailure(f"{failure}\n  log: {run.trial_log(KEY, str(failure))}") from None
    finally:
        writer.close()
