"""Checkpoints of a Learner: one safetensors file each, atomic, verified by a hash, never code. The newest valid one counts."""

import hashlib
import json
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from trainables.errors import UserError

log = logging.getLogger(__name__)
PATTERN = "step-*.safetensors"
ABANDONED = 600.0  # seconds after which a temporary file is that of a writer that was killed


@dataclass(frozen=True)
class Checkpoint:
    """Tensors on the CPU, and `values`: the Learner's plain state, the metric history, the configuration and versions."""

    path: Path
    tensors: dict[str, Tensor]
    values: dict[str, Any]


class Damaged(ValueError):
    """A checkpoint file whose content is not what was written."""


def write(folder: Path, step: int, tensors: dict[str, Tensor], values: dict[str, Any], keep: int) -> Path:
    """Writes `folder`/step-<step>.safetensors: under a temporary name, hashed, flushed, then made visible by one rename.

    Args:
        folder: of the trial; made where it is missing.
        step: of the state, names the file.
        tensors: by name.
        values: plain values, stored as JSON.
        keep: how many of the newest files stay. Those of later steps do not count: they are damaged ones that were passed over.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(values)
    path = folder / f"step-{step:010d}.safetensors"
    temporary = folder / f".{path.name}.{os.getpid()}"
    save_file(tensors, temporary, metadata={"values": text, "sha256": _digest(tensors, text)})
    temporary.chmod(0o644)
    _flush(temporary)
    temporary.rename(path)
    _flush(folder)
    older = sorted(file for file in folder.glob(PATTERN) if file <= path)[:-keep]
    abandoned = [file for file in folder.glob(f".{PATTERN}.*") if _age(file) > ABANDONED]
    for file in [*older, *abandoned]:
        file.unlink(missing_ok=True)
    return path


def read(path: Path) -> Checkpoint:
    """Reads one file and verifies it.

    Raises:
        Damaged: the file is cut short, was changed, or is no checkpoint.
        UserError: there is no such file.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise Damaged(f"{path}: damaged, or no checkpoint ({error})") from None
    if "sha256" not in metadata:
        raise Damaged(f"{path}: is no checkpoint of a trial")
    if metadata["sha256"] != _digest(tensors, metadata.get("values", "")):
        raise Damaged(f"{path}: damaged (its hash does not fit its content)")
    return Checkpoint(path, tensors, json.loads(metadata["values"]))


def newest(folder: Path) -> Checkpoint | None:
    """The newest valid checkpoint of a folder; damaged ones are reported to the log and passed over."""
    for path in sorted(folder.glob(PATTERN), reverse=True):
        try:
            return read(path)
        except Damaged as fault:
            log.warning("%s; an older checkpoint is used", fault)
    return None


def _digest(tensors: dict[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _age(path: Path) -> float:
    """Seconds since a file was written; 0 where it is gone."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
