"""The kinds of norm by name, each a file of `trainables.networks.norms`."""

import copy

from torch import nn

from trainables.config import discovery
from trainables.networks.norms.base import Norm

KINDS: dict[str, type[Norm]] = discovery.classes("networks.norms", Norm)


def convert(module: nn.Module, kind: str) -> nn.Module:
    """A copy of `module` whose norms are of another kind.

    Weights and, where both kinds have them, buffers are copied.
    """
    module = copy.deepcopy(module)
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, Norm) and type(child) is not KINDS[kind]:
                norm = KINDS[kind](len(child.weight), child.shards).to(child.weight)
                norm.load_state_dict(child.state_dict(), strict=False)
                setattr(parent, name, norm)
    return module
