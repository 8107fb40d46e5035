"""Requests of rank 0 to all workers, carried by a sum that the workers make anyway."""

from typing import Literal

import torch
from torch import Tensor

Request = Literal["checkpoint", "leave"]
REQUESTS: tuple[Request, ...] = ("checkpoint", "leave")


class Requests:
    """What rank 0 asks, and what every worker heard.

    A request takes an element of the sum: rank 0 adds 1 where it asks, the others add 0. The result of a step is read
    at the next step, so that a GPU is never waited for: by then its copy to the CPU has arrived. Every worker hears the
    same at the same step.

    Args:
        dtype: of the sum.
        device: of the sum.

    Attributes:
        asked: what this worker asks in the next step. Only rank 0 asks.
        heard: what was asked in the step before the last one.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device):
        self.asked: frozenset[Request] = frozenset()
        self.heard: frozenset[Request] = frozenset()
        on_gpu = device.type == "cuda"
        self._counts = torch.zeros(len(REQUESTS), dtype=dtype, pin_memory=on_gpu)
        self._copied = torch.cuda.Event() if on_gpu else None
        self._pending = False
        self._done: frozenset[Request] = frozenset()

    def put(self, elements: Tensor) -> None:
        """Puts what this worker asks into its elements of the sum, which are 0."""
        for place, request in enumerate(REQUESTS):
            if request in self.asked:
                elements[place].fill_(1.0)

    def take(self, elements: Tensor) -> None:
        """Reads what the step before asked, and begins to copy what this step asked.

        Args:
            elements: of the sum over all workers.
        """
        self.heard = self._read() - self._done if self._pending else frozenset()
        self._done = frozenset()
        self._counts.copy_(elements, non_blocking=self._copied is not None)
        if self._copied is not None:
            self._copied.record()
        self._pending = True

    def forget(self, request: Request) -> None:
        """Drops a request that was done, also where it was asked once more in the last step. Every worker forgets it at
        the same step."""
        self.heard -= {request}
        self._done |= {request}

    def _read(self) -> frozenset[Request]:
        if self._copied is not None:
            self._copied.synchronize()
        return frozenset(request for request, count in zip(REQUESTS, self._counts.tolist(), strict=True) if count)
