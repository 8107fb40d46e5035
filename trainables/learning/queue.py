"""A queue of past keys, as MoCo and ReSSL keep it: unit vectors, first in, first out."""

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.data import keyed


def initial(queues: int, length: int, width: int, seed: int) -> dict[str, Tensor]:
    """Random unit vectors [queues, length, width], and where the next key is put: int64 [1]."""
    rows = torch.randn(queues, length, width, generator=keyed.generator(seed, "queue"))
    return {"queue": F.normalize(rows, dim=-1), "pointer": torch.zeros(1, dtype=torch.int64)}


def enqueue(state: dict[str, Tensor], keys: Tensor) -> None:
    """Puts unit vectors [queues, batch, width] in the place of the oldest, in place."""
    queue, pointer = state["queue"], state["pointer"]
    places = (pointer + torch.arange(keys.shape[1], device=pointer.device)) % queue.shape[1]
    queue[:, places] = keys.to(queue.dtype)
    pointer.add_(keys.shape[1]).remainder_(queue.shape[1])
