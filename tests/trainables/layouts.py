"""Training forwards of networks and of single norms in tests, each with its layout."""

from torch import Tensor, nn

from trainables.networks.encoders import run_parts
from trainables.networks.norms.base import Layout, laid_out, norms_of


def through(module: nn.Module, x: Tensor, layout: Layout | None = None) -> Tensor:
    """A forward of a norm, a module or an encoder's parts. Without a layout it is about all shards of the worker."""
    norms = norms_of(module)
    with laid_out(norms, layout or norms[0].shards.layout()):
        return run_parts(module, x) if isinstance(module, nn.ModuleDict) else module(x)
