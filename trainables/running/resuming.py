"""The checkpoints of a trial that runs: what they hold, and how a trial goes on from one."""

import logging
import platform
from pathlib import Path

import torch
import torchvision

from trainables.config import formats, settings
from trainables.config import trial as c
from trainables.config.errors import UserError
from trainables.learning.learner import Learner
from trainables.running import checkpoint
from trainables.running.messages import Metrics

log = logging.getLogger(__name__)
FREE = {"data.root", "data.download", "data.loaders", "train.checkpoint_steps", "train.keep_checkpoints"}
"""Keys that may differ between a trial and the checkpoint that it goes on from."""


def save(learner: Learner, history: list[Metrics], folder: Path) -> None:
    """Writes a checkpoint: the Learner's state, its resolved configuration and the metric history. Collective."""
    tensors, values = learner.state_dict()
    if learner.group.rank == 0:
        state = {"learner": values, "history": history, "config": learner.config.plain()}
        content = {"format": formats.FORMAT, "versions": versions(), **state}
        checkpoint.write(folder, learner.step_index, tensors, content, learner.config.train.keep_checkpoints)


def resume(learner: Learner, folder: Path) -> list[Metrics]:
    """Restores the newest valid checkpoint on every worker, the one that rank 0 found valid, and returns its history.

    Collective.

    Raises:
        UserError: it is of another configuration.
    """
    found = checkpoint.newest(folder) if learner.group.rank == 0 else None
    # 0 if there is none, else its step + 1
    told = torch.tensor(found.values["learner"]["step"] + 1 if found else 0, device=learner.group.device)
    step = int(learner.group.sum(told)) - 1
    if step < 0:
        return []
    if found is None:
        found = checkpoint.read(folder / f"step-{step:010d}.safetensors")
    _require_same_trial(learner.config, found)
    before = len(found.values["learner"]["loss_sums"])
    if learner.config.teacher.smoothing.masks == "per_worker" and before != learner.group.size:
        raise UserError(
            f"teacher.smoothing.masks = per_worker: the trial has {before} teachers, "
            f"and goes on with {before} workers only"
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
    free = FREE if config.optim.name == "lars" else {*FREE, "optim.lr_in_buffer"}  # which only LARS reads
    for key in sorted(here.keys() - free):
        if key in there and there[key] != here[key]:
            raise UserError(
                f"{key} = {here[key]}: the checkpoints in {found.path.parent} are of a trial with {there[key]}; "
                "use another folder"
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
