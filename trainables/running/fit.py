"""fit: the loop, and the heart. Runs without Ray: `python -m trainables.running.fit config.yaml`, or the same under torchrun."""

import argparse
import contextlib
import functools
import logging
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import torch.distributed as dist
import torchvision

from trainables.config import equivalence, formats, settings
from trainables.config import trial as c
from trainables.config.errors import TrialFailure, UserError
from trainables.config.evaluation import require_fit, with_recipe
from trainables.data import images as data
from trainables.data import progress
from trainables.data.check import check_data, require_batch
from trainables.data.feed import Feed, labelled_images, with_known_labels
from trainables.evaluation.measure import measure
from trainables.evaluation.subject import Subject
from trainables.learning import monitors
from trainables.learning.learner import Learner
from trainables.networks import group
from trainables.networks.group import Group
from trainables.running import checkpoint, views_picture

log = logging.getLogger(__name__)
Metrics = dict[str, Any]
"""Numbers by name, and "loss_curve": points [step, loss] since the last report, several of each epoch."""
Report = Callable[[Metrics], bool]
"""Receives the metrics of an epoch on rank 0 and says whether to go on. On a resume it receives the whole history again first."""


def fit(config: c.TrialConfig, folder: Path, report: Report, workers: Group = Group()) -> list[Metrics]:
    """Trains a trial to its end, or until `report` says no. Collective.

    The newest valid checkpoint in `folder` is continued; a run that was killed anywhere ends as one that was not. Metrics are a function of
    the trial, but for those under "time/".

    Args:
        config: of the trial; with 0 epochs the untrained encoder is scored, as epoch 0.
        folder: where the trial's checkpoints are.
        report: called on rank 0 for each evaluated epoch.
        workers: this worker's place.

    Returns:
        The metric history, one entry for each evaluated epoch.

    Raises:
        UserError: the data cannot be read, or there are fewer training images than a batch.
        TrialFailure: the loss is no longer finite.
    """
    if workers.device.type == "cuda":
        _make_deterministic(config.train.precision)
    train, bank, validation = _sets(config.data, "validation", workers.device)
    with contextlib.ExitStack() as at_the_end:
        for images in (train, bank, validation):
            at_the_end.callback(images.close)
        return _fit(config, folder, report, workers, train, bank, validation)


def _fit(
    config: c.TrialConfig,
    folder: Path,
    report: Report,
    workers: Group,
    train: data.Images,
    bank: data.Images,
    validation: data.Images,
) -> list[Metrics]:
    require_batch(config, len(train))
    learner = Learner(config, train.channels, len(train), workers, bank.classes)
    labelled = labelled_images(config, bank)
    train = with_known_labels(config, train)
    if rule := equivalence.own_line(config):
        log.info(rule)
    if workers.rank == 0:
        views_picture.write(config, train, labelled, folder)
    history = _resume(learner, folder)
    going = _replay(history, report, workers)
    if config.train.epochs == 0 and not history:
        history.append({"epoch": 0.0, "step": 0.0, **score(learner, bank, validation)})
        _save(learner, history, folder)
        _tell(history[-1], report, workers)
    feed = Feed(learner.config, train, labelled, learner.passes(), workers.device, learner.dtype)
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
                _save(learner, history, folder)
        epoch += 1
        metrics: Metrics = {"epoch": float(epoch), "step": float(learner.step_index), **learner.close_epoch()}
        _require_finite(metrics["loss"], epoch)
        if epoch % config.evaluation.every_epochs and epoch < config.train.epochs:
            continue
        metrics["loss_curve"] = learner.loss_curve.take()
        metrics["time/images_per_second"] = clock.images_per_second(learner.step_index, config.train.batch_size)
        metrics |= monitors.measure(learner, validation)
        metrics |= score(learner, bank, validation)
        metrics |= {"time/first_step_at": clock.first_step_at, "time/measured_at": time.time()}
        history.append(metrics)
        _save(learner, history, folder)
        going = _tell(metrics, report, workers)
    return history


@functools.lru_cache(maxsize=2)
def _load(wanted: c.Data, split: str) -> list[data.Images]:
    """Train, bank and a split, remembered by a worker that runs trial after trial: a million files are not listed for each of them."""
    return data.splits(wanted, "train", "bank", split)


def _sets(wanted: c.Data, split: str, device: torch.device) -> tuple[data.Images, data.Images, data.Images]:
    """What the student learns from, what evaluations learn from, which mostly is the same object, and a split to score."""
    train, bank, other = _load(wanted, split)
    moved = train.to(device)
    return moved, moved if bank is train else bank.to(device), other.to(device)


def _make_deterministic(precision: str) -> None:
    """A resumed trial equals one that was not interrupted, also on a GPU; what torch cannot do that way it names in a warning."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a write for every new tensor
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "bf16"


def score(learner: Learner, bank: data.Images, validation: data.Images) -> Metrics:
    """What the trial's `evaluation.protocols` say of the configured network on the validation split, and of how many images. Collective."""
    wanted = learner.config.evaluation
    network, probe = learner.network(wanted.network), learner.student.probe
    scores = measure(Subject(network, learner.config, bank, validation, learner.group, probe), wanted.protocols)
    return {**scores, "validation_images": float(len(validation))}


def evaluate(
    found: checkpoint.Checkpoint,
    split: str,
    protocols: Sequence[str] = ("knn", "linear"),
    changes: Mapping[str, Any] = MappingProxyType({}),
    workers: Group = Group(),
) -> tuple[Metrics, Subject, Learner]:
    """What protocols say of a checkpoint, on a split. Collective.

    Args:
        found: the checkpoint.
        split: "validation" or "test"; images of the bank are what protocols learn from.
        protocols: their names.
        changes: dotted keys that differ from the trial's, such as where its data are now. With another `recipe` for a protocol none of
            the trial's options of that protocol are left.
        workers: this worker's place.

    Returns:
        The scores, what they are of, with the configuration that was used, and the restored Learner.

    Raises:
        UserError: a protocol does not fit the trial.
    """
    if workers.device.type == "cuda":
        _make_deterministic(found.config["train"]["precision"])
    config = c.changed(with_recipe(found.config, changes), changes)
    require_fit(protocols, config)
    train, bank, other = _sets(config.data, split, workers.device)
    learner = Learner(config, train.channels, len(train), workers, bank.classes)
    learner.load_state_dict(found.tensors, found.values["learner"])
    subject = Subject(learner.network(config.evaluation.network), config, bank, other, workers, learner.student.probe)
    return measure(subject, protocols), subject, learner


class _Clock:
    """Wall-clock times of this life of the trial."""

    def __init__(self) -> None:
        self.first_step_at = 0.0

    def start(self, step: int) -> None:
        """An epoch begins, or goes on, at a step."""
        self.since, self.step = time.time(), step
        self.first_step_at = self.first_step_at or self.since

    def images_per_second(self, step: int, batch_size: int) -> float:
        """Of training alone, since `start`."""
        return (step - self.step) * batch_size / (time.time() - self.since)


def _require_finite(loss: float, epoch: int) -> None:
    if not math.isfinite(loss):
        raise TrialFailure(f"the loss is {loss} in epoch {epoch}: the trial diverged")


def _tell(metrics: Metrics, report: Report, workers: Group) -> bool:
    return workers.decide(report(metrics) if workers.rank == 0 else False)


def _replay(history: list[Metrics], report: Report, workers: Group) -> bool:
    """Tells the history again, for listeners that lost it; whoever knows it already passes over it."""
    return all(_tell(metrics, report, workers) for metrics in history)


def _save(learner: Learner, history: list[Metrics], folder: Path) -> None:
    tensors, values = learner.state_dict()
    if learner.group.rank == 0:
        state = {"learner": values, "history": history, "config": learner.config.plain()}
        content = {"format": formats.FORMAT, "versions": versions(), **state}
        checkpoint.write(folder, learner.step_index, tensors, content, learner.config.train.keep_checkpoints)


def _resume(learner: Learner, folder: Path) -> list[Metrics]:
    """Restores the newest valid checkpoint on every worker: all use the one that rank 0 found valid.

    Raises:
        UserError: it is of another configuration.
    """
    found = checkpoint.newest(folder) if learner.group.rank == 0 else None
    told = torch.tensor(
        found.values["learner"]["step"] + 1 if found else 0, device=learner.group.device
    )  # 0: there is none
    step = int(learner.group.sum(told)) - 1
    if step < 0:
        return []
    if found is None:
        found = checkpoint.read(folder / f"step-{step:010d}.safetensors")
    _require_same_trial(learner.config, found)
    before = len(found.values["learner"]["loss_sums"])
    if learner.config.teacher.smoothing.masks == "per_worker" and before != learner.group.size:
        raise UserError(
            f"teacher.smoothing.masks = per_worker: the trial has {before} teachers, and goes on with {before} workers only"
        )
    try:
        learner.load_state_dict(found.tensors, found.values["learner"])
    except ValueError as error:
        raise UserError(f"{found.path}: {error}; is it of another trial?") from None
    log.info("continued from %s", found.path)
    return list(found.values["history"])


def _require_same_trial(config: c.TrialConfig, found: checkpoint.Checkpoint) -> None:
    """A trial is a function of its configuration: it cannot go on under another one."""
    there, here = settings.flat(found.config), settings.flat(config.plain())
    free = {"data.root", "data.download", "data.loaders", "train.checkpoint_steps", "train.keep_checkpoints"}
    if config.optim.name != "lars":
        free.add("optim.lr_in_buffer")  # which only LARS reads
    for key in sorted(here.keys() - free):
        if key in there and there[key] != here[key]:
            raise UserError(
                f"{key} = {here[key]}: the checkpoints in {found.path.parent} are of a trial with {there[key]}; use another folder"
            )
    if config.plain()["teacher"]["momenta"] != found.config["teacher"].get("momenta", {}):
        raise UserError(
            f"teacher.momenta: the checkpoints in {found.path.parent} are of a trial with others; use another folder"
        )


def versions() -> dict[str, str | None]:
    """Versions that a result depends on."""
    libraries = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }
    return {"teacher-tuner": formats.version(), **libraries}


def main(arguments: list[str] | None = None) -> int:
    """The command line: trains one configuration and prints each epoch."""
    parser = argparse.ArgumentParser(
        prog="python -m trainables.running.fit", description="Train one student and its teacher, without Ray."
    )
    parser.add_argument("config", type=Path, help="a TrialConfig in YAML")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a key, such as train.epochs=20"
    )
    parser.add_argument("--folder", type=Path, required=True, help="where checkpoints are written, and continued from")
    given = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    workers = None
    try:
        config = c.changed(settings.read_yaml(given.config), settings.read_settings(given.set))
        check_data(config)
        workers = group.from_torchrun()
        config.train.require_shards(workers.size, f"{workers.size} workers")
        fit(config, given.folder, _print_metrics, workers)
    except (UserError, TrialFailure, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, TrialFailure) else 2
    finally:
        if workers is not None and workers.size > 1:
            dist.destroy_process_group()
    return 0


def _print_metrics(metrics: Any) -> bool:
    shown = {
        key: value
        for key, value in metrics.items()
        if key not in ("loss_curve", "time/first_step_at", "time/measured_at")
    }
    print("  ".join(f"{key.removeprefix('time/')} {value:.4g}" for key, value in shown.items()), flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main())
