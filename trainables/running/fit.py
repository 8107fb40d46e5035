"""fit: the training loop of a trial. Runs without Ray; `trainables.running.train` is its command line."""

import contextlib
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path

from trainables.config import equivalence
from trainables.config import trial as c
from trainables.config.errors import TrialFailure
from trainables.data import images as data
from trainables.data import progress
from trainables.data.check import require_batch
from trainables.data.feed import Feed, labelled_images, with_known_labels
from trainables.learning.learner import Learner
from trainables.networks.group import Group
from trainables.running import views_picture
from trainables.running.messages import Metrics
from trainables.running.preparation import load_sets, make_deterministic
from trainables.running.resolve import resolved
from trainables.running.resuming import resume, save
from trainables.running.scoring import score

log = logging.getLogger(__name__)
Report = Callable[[Metrics], bool]
"""Receives the metrics of an epoch on rank 0 and says whether to go on.

On a resume it receives the whole history again first.
"""


def fit(config: c.TrialConfig, folder: Path, report: Report, workers: Group = Group()) -> list[Metrics]:
    """Trains a trial to its end, or until `report` says no. Collective.

    The newest valid checkpoint in `folder` is continued; a run that was killed anywhere ends like one that was not.
    Metrics are a function of the trial, except those under "time/".

    Args:
        config: of the trial; it is resolved here. With 0 epochs the untrained encoder is scored, as epoch 0.
        folder: where the trial's checkpoints are.
        report: called on rank 0 for each evaluated epoch.
        workers: this worker's place.

    Returns:
        The metric history, one entry for each evaluated epoch.

    Raises:
        UserError: the data cannot be read, or there are fewer training images than a batch.
        TrialFailure: the loss is no longer finite.
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
        return _fit(ready, folder, report, workers, train, bank, validation)


def _fit(
    config: c.TrialConfig,
    folder: Path,
    report: Report,
    workers: Group,
    train: data.Images,
    bank: data.Images,
    validation: data.Images,
) -> list[Metrics]:
    learner = Learner(config, train.channels, len(train), workers, bank.classes)
    labelled = labelled_images(config, bank)
    train = with_known_labels(config, train)
    if workers.rank == 0:
        views_picture.write(config, train, labelled, folder)
    history = resume(learner, folder)
    going = _replay(history, report, workers)
    if config.train.epochs == 0 and not history:
        history.append({"epoch": 0.0, "step": 0.0, **score(learner, bank, validation)})
        save(learner, history, folder)
        _tell(history[-1], report, workers)
    feed = Feed(config, train, labelled, learner.passes(), workers.device, learner.dtype)
    clock = _Clock()
    while going and learner.step_index < learner.run.total:
        epoch, position = divmod(learner.step_index, learner.run.per_epoch)
        order = train.order(config.seed, epoch, "order")
        train.expect(*feed.coming(order, position))
        clock.start(learner.step_index)
        for at in range(position, learner.run.per_epoch):
            learner.step(feed.batches(order, at, epoch))
            progress.tell(f"steps of epoch {epoch + 1}", at + 1, learner.run.per_epoch)
            every = config.train.checkpoint_steps
            if every and learner.step_index % every == 0 and at + 1 < learner.run.per_epoch:
                _require_finite(learner.mean_loss(at + 1), epoch + 1)
                save(learner, history, folder)
        epoch += 1
        metrics: Metrics = {"epoch": float(epoch), "step": float(learner.step_index), **learner.close_epoch()}
        _require_finite(metrics["loss"], epoch)
        if epoch % config.evaluation.every_epochs and epoch < config.train.epochs:
            continue
        metrics["loss_curve"] = learner.loss_curve.take()
        metrics["time/images_per_second"] = clock.images_per_second(learner.step_index, config.train.batch_size)
        metrics |= learner.watch(validation)
        metrics |= score(learner, bank, validation)
        metrics |= {"time/first_step_at": clock.first_step_at, "time/measured_at": time.time()}
        history.append(metrics)
        save(learner, history, folder)
        going = _tell(metrics, report, workers)
    return history


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


def _tell(metrics: Metrics, report: Report, workers: Group) -> bool:
    return workers.decide(report(metrics) if workers.rank == 0 else False)


def _replay(history: list[Metrics], report: Report, workers: Group) -> bool:
    """Reports the history again, for listeners that lost it. Listeners that know it ignore it."""
    return all(_tell(metrics, report, workers) for metrics in history)
