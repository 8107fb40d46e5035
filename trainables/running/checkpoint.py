"""Checkpoints of a Learner: one safetensors file each, atomic, verified by a hash, never code.

The newest valid one counts.
"""

import hashlib
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from trainables.config import formats
from trainables.config.errors import UserError
from trainables.running import checkpoint_files as files
from trainables.running.checkpoint_files import Name
from trainables.running.checkpoint_header import PATTERN

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """Tensors on the CPU, and `values`: the Learner's plain state, metric history, configuration and versions."""

    path: Path
    tensors: dict[str, Tensor]
    values: dict[str, Any]

    @property
    def name(self) -> Name:
        """The step that it holds, and whether it is one by time, by the name of its file."""
        name = Name.of(self.path)
        assert name is not None, "`newest` has looked at the name"
        return name

    @property
    def config(self) -> dict[str, Any]:
        """The trial's configuration as nested values. Keys that its version lacked get the value that they had then."""
        return formats.as_written(self.values["config"], self.values.get("format", 1))


class Damaged(ValueError):
    """A checkpoint file whose content is not what was written."""


def write(
    folder: Path,
    step: int,
    tensors: dict[str, Tensor],
    values: dict[str, Any],
    keep: int,
    timed: bool = False,
    owner: str = "",
) -> Path:
    """Writes `folder`/step-<step>.safetensors: hashed, flushed under a temporary name, made visible by one rename.

    Args:
        folder: of the trial; made where it is missing.
        step: of the state, names the file.
        tensors: by name.
        values: plain values, stored as JSON.
        keep: how many of the newest files stay that are not timed.
        timed: whether it is one by time, which stays only while it is the newest.
        owner: token of the segment; empty where the folder has no owner.

    Raises:
        OSError, SafetensorError: the disc is full, or cannot be written; nothing of it is left there.
        Disowned: another segment has taken the folder; nothing was written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(values)
    name = Name(step, timed)
    path = folder / str(name)
    metadata = {"values": text, "sha256": _digest(tensors, text)}
    files.write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata), owner)
    files.prune(folder, name, keep)
    return path


def read(path: Path) -> Checkpoint:
    """Reads one file and verifies it.

    Raises:
        Damaged: the file is cut short, was changed, cannot be read, or is no checkpoint.
        UserError: there is no such file.
    """
    if not path.is_file():  # a pipe would make the reader wait for ever
        raise UserError(f"{path}: {'is no file, so no checkpoint' if os.path.lexists(path) else 'no such checkpoint'}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise Damaged(f"{path}: damaged, or no checkpoint ({error})") from None
    if not metadata.keys() >= {"sha256", "values"}:
        raise Damaged(f"{path}: is no checkpoint of a trial")
    if metadata["sha256"] != _digest(tensors, metadata["values"]):
        raise Damaged(f"{path}: damaged (its hash does not fit its content)")
    try:
        values = json.loads(metadata["values"])
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise Damaged(f"{path}: is no checkpoint of a trial (its values are none)")
    return Checkpoint(path, tensors, values)


def newest(folder: Path) -> Checkpoint | None:
    """The newest valid checkpoint of a folder.

    What is damaged, no file, or not of the step in its name is logged and passed over.
    """
    for path in sorted(folder.glob(PATTERN), reverse=True):
        try:
            found = read(path)
            _require_named_step(found)
            return found
        except (Damaged, UserError) as fault:
            log.warning("%s; an older checkpoint is used", fault)
    return None


def _require_named_step(found: Checkpoint) -> None:
    """Refuses a file that was renamed, or that holds no step.

    It would be taken for a newer one, and the files that are newer than it would be overwritten.
    """
    learner = found.values.get("learner")
    held = learner.get("step") if isinstance(learner, dict) else None
    if not isinstance(held, int):
        raise Damaged(f"{found.path}: is no checkpoint of a trial (it holds no step)")
    if found.path.name not in (str(Name(held)), str(Name(held, timed=True))):
        raise Damaged(f"{found.path}: holds step {held}, so it was renamed")


def _digest(tensors: dict[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
