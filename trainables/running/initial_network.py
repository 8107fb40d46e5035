"""Reads the network that a trial begins with (`init`): a checkpoint of ours, or the state of a torchvision ResNet."""

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from trainables.config import trial as c
from trainables.config.errors import UserError, one_line
from trainables.config.init import TORCH
from trainables.data import initial
from trainables.networks.encoders import build_parts
from trainables.networks.initial import State, of_checkpoint, of_torchvision, require_fit
from trainables.networks.norms.base import Shards
from trainables.running import checkpoint
from trainables.running.checkpoint_header import is_checkpoint
from trainables.running.resolve import resolved
from trainables.running.stored import Stored


def read(init: c.Init) -> State | None:
    """Returns the tensors of the network on the CPU, under our names; None where weights are random.

    Raises:
        UserError: the file is missing, is damaged, holds code or no such network, or has another content than
            `init.sha256` says.
    """
    initial.content(init)
    if init.path is None:
        return None
    try:
        if is_checkpoint(init.path):
            return of_checkpoint(checkpoint.read(init.path).tensors, init.network)
        if init.network == "teacher":
            raise ValueError("is no checkpoint of a trial, so it has no teacher beside its student")
        return of_torchvision(_torch(init.path) if init.path.suffix in TORCH else _safetensors(init.path))
    except ValueError as error:
        raise UserError(f"init.path = '{init.path}': {str(error).removeprefix(f'{init.path}: ')}") from None


def require_fitting(config: c.TrialConfig, stored: Stored) -> None:
    """Refuses a trial whose network cannot begin with that of `init`. Nothing is trained, and no weights are made.

    Args:
        config: of the trial.
        stored: the facts of its data.

    Raises:
        UserError: see `read`; or a tensor does not fit.
    """
    state = read(config.init)
    if state is not None:
        encoder = resolved(config, stored.classes).encoder
        with torch.device("meta"):
            parts = build_parts(encoder, stored.shape[-1], Shards(config.train.shard_size, 1, range(1)))
        require_fit(parts, state, config.init)


def _torch(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, OSError) as error:
        raise ValueError(f"is damaged, or holds more than tensors ({one_line(error, 120)})") from None
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        held = f"; it holds {', '.join(map(str, [*state][:3]))}" if isinstance(state, dict) else ""
        raise ValueError(f"must hold the state of a network: names and tensors{held}")
    return state


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"is damaged ({one_line(error, 120)})") from None
