"""The kinds of norm by name, each a file of `trainables.networks.norms`."""

import copy
from collections.abc import Callable

import torch
from torch import nn

from trainables.config import discovery
from trainables.config.norms import NormOptions
from trainables.networks.norms.base import Norm, Shards

KINDS: dict[str, type[Norm]] = discovery.classes("networks.norms", Norm)
NormFactory = Callable[[int], Norm]
"""Channels -> a norm of them."""


def factory(config: NormOptions, shards: Shards) -> NormFactory:
    """Returns what makes the norms of a network."""

    def make(channels: int) -> Norm:
        norm = KINDS[config.kind](channels, shards)
        norm.configure(config)
        return norm

    return make


@torch.no_grad()
def convert(module: nn.Module, kind: str) -> nn.Module:
    """A copy of `module` whose norms are of another kind; those without batch statistics keep theirs.

    Weights are copied, and the statistics that an evaluation uses, if the kind has any.
    """
    module = copy.deepcopy(module)
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, Norm) and child.BATCH_STATISTICS and type(child) is not KINDS[kind]:
                norm = KINDS[kind](child.channels, child.shards).to(child.weight)
                norm.load_state_dict(child.state_dict(), strict=False)
                if norm.BATCH_STATISTICS:
                    norm.take_statistics(*child.evaluation_statistics())
                setattr(parent, name, norm)
    return module
