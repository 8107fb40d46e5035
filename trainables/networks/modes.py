"""Modes of networks: training, where norms use the batch, and evaluation, where they use running statistics."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def in_evaluation_mode(*modules: nn.Module) -> Iterator[None]:
    """Puts modules into evaluation mode; each of their parts gets its own mode back at the end."""
    modes = [(part, part.training) for module in modules for part in module.modules()]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
