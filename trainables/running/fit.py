"""fit: the training loop of a trial. Runs without Ray; `trainables.running.train` is its command line."""

import contextlib
import logging
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch

from trainables.config import equivalence
from trainables.config import trial as c
from trainables.config.errors import TrialFailure
from trainables.data import images as data
from trainables.data import progress
from trainables.data.check import require_batch
from trainables.data.feed import Feed, labelled_images, with_known_labels
from trainables.learning.learner import Learner
from trainables.networks.group import Group
from trainables.running import initial_network, resuming, views_picture
from trainables.running.messages import Going, Metrics, Report
from trainables.running.preparation import load_sets, make_deterministic
from trainables.running.resolve import resolved
from trainables.running.saver import Saver
from trainables.running.scoring import score
from trainables.running.segment import Segment

log = logging.getLogger(__name__)
GOING: tuple[Going, ...] = ("on", "stop", "leave")


def fit(
    config: c.TrialConfig, folder: Path, report: Report, workers: Group = Group(), segment: Segment | None = None
) -> list[Metrics]:
    """Trains a trial to its end, or until `report` or `segment` says no. Collective.

    The newest valid checkpoint in `folder` is continued; a run that was killed anywhere ends like one that was not.
    Metrics are a function of the trial, except those under "time/". An epoch is reported once its checkpoint is on the
    disc.

    Args:
        config: of the trial; it is resolved here. With 0 epochs the untrained encoder is scored, as epoch 0.
        folder: where the trial's checkpoints are.
        report: called on rank 0 for each evaluated epoch.
        workers: this worker's place.
        segment: of the trial. `segment.leave()`, called on rank 0, has all workers write a checkpoint and return, two
            steps after the one that is being made. If an epoch that is evaluated ends before that, the evaluation is
            finished and reported first. `segment.left` says whether the trial was left before its end.

    Returns:
        The metric history, one entry for each evaluated epoch.

    Raises:
        UserError: the data or the file of `init` cannot be read, or there are fewer training images than a batch.
        TrialFailure: the loss is no longer finite.
        Disowned: another segment has taken the folder.
    """
    make_deterministic(workers.device, config.train.precision)
    train, bank, validation = load_sets(config.data, "validation", workers.device)
    with contextlib.ExitStack() as at_the_end:
        for images in (train, bank, validation):
            at_the_end.callback(images.close)
        require_batch(config, len(train))
        ready = resolved(config, bank.classes)
        if rule := equivalence.own_line(config, ready):
            log.info(rule)
        return _fit(ready, folder, report, workers, segment or Segment(), (train, bank, validation))


def _fit(
    config: c.TrialConfig,
    folder: Path,
    report: Report,
    workers: Group,
    segment: Segment,
    sets: tuple[data.Images, data.Images, data.Images],
) -> list[Metrics]:
    train, bank, validation = sets
    labelled = labelled_images(config, bank)
    train = with_known_labels(config, train)
    learner, history = _begun(config, folder, workers, segment, train, bank.classes)
    if workers.rank == 0:
        views_picture.write(config, train, labelled, folder, segment.owner)
    going = _replay(history, report, workers)
    feed = Feed(config, train, labelled, learner.passes(), workers.device, learner.dtype)
    clock = _Clock()
    with _noted(learner), Saver(learner, folder, segment) as saver:
        if config.train.epochs == 0 and not history:
            history.append({"epoch": 0.0, "step": 0.0, **score(learner, bank, validation)})
            saver.save(history)
            saver.wait()
            _tell(history[-1], report, workers)
        while going == "on" and learner.step_index < learner.run.total:
            clock.start(learner.step_index)
            going = _train_epoch(learner, train, feed, saver, history)
            if going == "leave":
                break
            epoch = learner.step_index // learner.run.per_epoch
            metrics: Metrics = {"epoch": float(epoch), "step": float(learner.step_index), **learner.close_epoch()}
            _require_finite(metrics["loss"], epoch)
            if epoch % config.evaluation.every_epochs and epoch < config.train.epochs:
                going = saver.between_steps(history)
                continue
            metrics["loss_curve"] = learner.loss_curve.take()
            metrics["time/images_per_second"] = clock.images_per_second(learner.step_index, config.train.batch_size)
            metrics |= learner.watch(validation)
            metrics |= score(learner, bank, validation)
            metrics |= {"time/first_step_at": clock.first_step_at, "time/measured_at": time.time()}
            metrics["time/workers"] = float(workers.size)
            history.append(metrics)
            saver.save(history)
            saver.wait()
            going = _tell(metrics, report, workers, segment)
        segment.left = going == "leave" and learner.step_index < learner.run.total
    return history


def _begun(
    config: c.TrialConfig, folder: Path, workers: Group, segment: Segment, train: data.Images, classes: int
) -> tuple[Learner, list[Metrics]]:
    """Takes the trial's folder; returns its Learner, as its newest checkpoint or its first step has it, and its
    history. Collective.
    """
    found = resuming.taken(folder, workers, segment.owner)
    initial = initial_network.read(config.init) if found is None else None
    learner = Learner(config, train.channels, len(train), workers, classes, initial)
    return learner, resuming.resume(learner, found) if found is not None else []


def _train_epoch(
    learner: Learner, train: data.Images, feed: Feed, saver: Saver, history: list[Metrics]
) -> Literal["on", "leave"]:
    """Makes the steps of an epoch that are not made yet; "leave" where it was left before the last one. Collective."""
    per_epoch = learner.run.per_epoch
    epoch, position = divmod(learner.step_index, per_epoch)
    order = train.order(learner.config.seed, epoch, "order")
    train.expect(*feed.coming(order, position), cropped=True)
    for at in range(position, per_epoch):
        saver.ask()
        learner.step(feed.batches(order, at, epoch))
        progress.tell(f"steps of epoch {epoch + 1}", at + 1, per_epoch)
        if at + 1 < per_epoch and saver.wanted:
            _require_finite(learner.mean_loss(at + 1), epoch + 1)
            if saver.between_steps(history) == "leave":
                return "leave"
    return "on"


@contextlib.contextmanager
def _noted(learner: Learner) -> Iterator[None]:
    """Notes in the trial's log between which steps this worker trained it, and when."""
    group = learner.group
    log.info("steps from %d on: worker %d of %d, process %d", learner.step_index, group.rank, group.size, os.getpid())
    try:
        yield
    finally:
        log.info("steps until %d", learner.step_index)


class _Clock:
    """Wall-clock times of a trial since this process took it up."""

    def __init__(self) -> None:
        self.first_step_at = 0.0

    def start(self, step: int) -> None:
        """An epoch begins, or goes on, at a step."""
        self.since, self.step = time.time(), step
        self.first_step_at = self.first_step_at or self.since

    def images_per_second(self, step: int, batch_size: int) -> float:
        """Training images a second since `start`."""
        return (step - self.step) * batch_size / (time.time() - self.since)


def _require_finite(loss: float, epoch: int) -> None:
    if not math.isfinite(loss):
        raise TrialFailure(f"the loss is {loss} in epoch {epoch}: the trial diverged")


def _tell(metrics: Metrics, report: Report, workers: Group, segment: Segment | None = None) -> Going:
    """Reports an epoch on rank 0. Returns on every worker how the trial goes on. Collective.

    Args:
        metrics: of the epoch.
        report: of `fit`.
        workers: of the trial.
        segment: a wish to leave the trial counts as well, where it is given.
    """
    going: Going = report(metrics) if workers.rank == 0 else "on"
    if going == "on" and workers.rank == 0 and segment and segment.asked_to_leave:
        going = "leave"
    return GOING[int(workers.sum(torch.tensor(GOING.index(going), device=workers.device)))]


def _replay(history: list[Metrics], report: Report, workers: Group) -> Going:
    """Reports the history again, for listeners that lost it. Listeners that know it ignore it.

    All of it is reported, unless the answer is "stop": of a trial that has ended nothing comes afterwards.
    """
    answers: set[Going] = set()
    for metrics in history:
        answers.add(answer := _tell(metrics, report, workers))
        if answer == "stop":
            return answer
    return "leave" if "leave" in answers else "on"
