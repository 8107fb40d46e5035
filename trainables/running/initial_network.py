"""Reads the file that a trial begins with (`init`): a checkpoint of ours, or the state of a torchvision ResNet.

What is done with its tensors is in `trainables.networks.initial`.
"""

import re
import warnings
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from trainables.config import trial as c
from trainables.config.errors import UserError, one_line, shown_name
from trainables.config.init import TORCH
from trainables.data import initial
from trainables.networks.encoders import build_parts
from trainables.networks.initial import State, of_checkpoint, of_torchvision, require_fit
from trainables.networks.norms.base import Shards
from trainables.running import checkpoint
from trainables.running.checkpoint_header import is_checkpoint
from trainables.running.resolve import resolved
from trainables.running.stored import Stored

RULE = "must hold tensors by name, as torchvision saves them"


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
        UserError: see `read`; or a tensor does not fit, or holds a number that is not finite.
    """
    state = read(config.init)
    if state is not None:
        encoder = resolved(config, stored.classes).encoder
        with torch.device("meta"):
            parts = build_parts(encoder, stored.shape[-1], Shards(config.train.shard_size, 1, range(1)))
        require_fit(parts, state, config.init)


def _torch(path: Path) -> dict[str, Tensor]:
    """Returns the tensors of a file that `torch.save` wrote; no code in it is run."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd formats; what is wrong is said in one line
            state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ValueError(f"cannot be read ({one_line(error, 120)})") from None
    except Exception as error:  # torch's reader of pickles raises whatever the bytes lead it to
        raise ValueError(f"{RULE}; {_not_tensors(str(error))}") from None
    if not isinstance(state, dict):
        raise ValueError(f"{RULE}; it holds a {type(state).__name__}")
    if not all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in state.items()):
        raise ValueError(f"{RULE}; it holds {', '.join(map(shown_name, [*state][:3]))}")
    return state


def _not_tensors(error: str) -> str:
    """Returns in a few words why torch loads no tensors of a file, from what its reader says."""
    if "TorchScript" in error:
        return "it holds a TorchScript program"
    found = re.search(r"GLOBAL ([\w.]+)", error)
    return f"it holds code ({found[1]})" if found else "it is damaged, or torch.save did not write it"


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"is damaged ({one_line(error, 120)})") from None
