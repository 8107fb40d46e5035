"""One gradient from the losses of several passes and workers."""

import torch
from torch import Tensor, nn

from trainables.learning.requests import REQUESTS, Requests
from trainables.networks.group import Group


class GradientSum:
    """Sums the gradients of losses over passes and workers, and puts their mean into `parameter.grad`.

    With `exact`, sums are float64: a sum of float32 gradients is then free of rounding in any order, unless the
    gradients differ by more than 2^29 in size. So the mean has the same bits for any number of workers. Without
    `exact`, sums have the type of the parameters.

    The last elements of the sum carry `requests`. They are there in every step, so that the gradients have the same
    bits whether something is asked or not.
    """

    def __init__(self, parameters: list[nn.Parameter], exact: bool):
        self.parameters = parameters
        first = parameters[0]
        sizes = [p.numel() for p in parameters]
        dtype = torch.float64 if exact else first.dtype
        self.requests = Requests(dtype, first.device)
        self._everything = torch.zeros(sum(sizes) + len(REQUESTS), dtype=dtype, device=first.device)
        self._sum, self._asked = self._everything.split([sum(sizes), len(REQUESTS)])
        self._mean = torch.zeros_like(self._sum, dtype=first.dtype)
        pieces = self._mean.split(sizes)
        self._grads = [piece.as_strided(p.shape, p.stride()) for piece, p in zip(pieces, parameters, strict=True)]

    @property
    def memory(self) -> int:
        """Bytes of the sum and of the mean."""
        return sum(tensor.numel() * tensor.element_size() for tensor in (self._everything, self._mean))

    def add(self, loss: Tensor) -> None:
        """Adds the gradient of a loss."""
        gradients = torch.autograd.grad(loss, self.parameters)
        self._sum += torch.cat([_in_memory_order(g, p) for g, p in zip(gradients, self.parameters, strict=True)])

    def close(self, group: Group, count: int) -> None:
        """Sums over the workers, divides by `count`, gives the parameters the result and starts the next sum.

        Collective.
        """
        self.requests.put(self._asked)
        group.sum(self._everything)
        self.requests.take(self._asked)
        self._mean.copy_(self._sum.div_(count))
        self._everything.zero_()
        for parameter, grad in zip(self.parameters, self._grads, strict=True):
            parameter.grad = grad


def _in_memory_order(gradient: Tensor, parameter: Tensor) -> Tensor:
    """A gradient as a vector, in the memory order of its parameter."""
    if gradient.stride() != parameter.stride():
        gradient = torch.empty_like(parameter).copy_(gradient)
    return gradient.as_strided((gradient.numel(),), (1,))
