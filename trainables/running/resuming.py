"""The checkpoints of a trial that runs: what they hold, and how a trial goes on from one."""

import logging
import platform
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor

from trainables.config import formats, settings
from trainables.config import trial as c
from trainables.config.errors import UserError
from trainables.learning.learner import Learner
from trainables.networks.group import Group
from trainables.running import checkpoint
from trainables.running import checkpoint_files as files
from trainables.running.checkpoint import Checkpoint
from trainables.running.checkpoint_files import Name
from trainables.running.messages import Metrics

log = logging.getLogger(__name__)
FREE = {
    "data.root",
    "data.download",
    "data.loaders",
    "init.path",
    "init.sha256",  # `_require_same_trial` compares it with an error of its own
    "train.checkpoint_minutes",
    "train.checkpoint_steps",
    "train.keep_checkpoints",
}
"""Keys that may differ between a trial and the checkpoint that it goes on from."""


def content(learner: Learner, history: list[Metrics]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What a checkpoint holds: tensors, and the Learner's plain state, its configuration and the metric history.

    Collective. The tensors are those that the Learner trains on, not copies.
    """
    tensors, values = learner.state_dict()
    state = {"learner": values, "history": [*history], "config": learner.config.plain()}
    return tensors, {"format": formats.FORMAT, "versions": versions(), **state}


def taken(folder: Path, group: Group, owner: str = "") -> Checkpoint | None:
    """Takes the trial's folder; returns its newest valid checkpoint on every worker, or None where it has none.

    That checkpoint counts which rank 0 found valid. Collective.

    Args:
        folder: of the trial.
        group: the workers.
        owner: token of the segment, which may write the folder from now on.
    """
    found = None
    if group.rank == 0:
        files.take(folder, owner)
        found = checkpoint.newest(folder)
    name = _told(found.name if found else None, group)
    if name is None or found is not None:
        return found
    return checkpoint.read(folder / str(name))


def resume(learner: Learner, found: Checkpoint) -> list[Metrics]:
    """Restores a checkpoint of the trial, and returns its history.

    Args:
        learner: to restore.
        found: its checkpoint.

    Raises:
        UserError: the checkpoint is of another configuration.
    """
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


def _told(name: Name | None, group: Group) -> Name | None:
    """The name that rank 0 gives, on every worker. Collective."""
    code = 2 * name.step + name.timed + 1 if name else 0
    code = int(group.sum(torch.tensor(code, device=group.device)))
    return Name((code - 1) // 2, bool((code - 1) % 2)) if code else None


def _require_same_trial(config: c.TrialConfig, found: Checkpoint) -> None:
    """A trial is a function of its configuration: it cannot go on under another one."""
    there, here = settings.flat(found.config), settings.flat(config.plain())
    if (began := there.get("init.sha256")) != config.init.sha256:
        first = "random weights" if began is None else f"a file whose sha256 is {began[:12]}..."
        rule = f"the checkpoints in {found.path.parent} are of a trial that began with {first}; use another folder"
        raise UserError(f"init.path = {config.init.path}: {rule}")
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
