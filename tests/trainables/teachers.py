"""Students and teachers in float64 that the tests of averaging share."""

import torch
from torch import Tensor, nn

from trainables.config import trial as c
from trainables.config.durations import Length
from trainables.learning.teacher import Teacher
from trainables.networks.encoders import build_parts
from trainables.networks.norms.base import Shards

TOTAL = Length(100, 10)
SHARDS = Shards(4, 1, range(1))
LAYOUT = SHARDS.layout()
Numbers = dict[str, Tensor]


def student_parts(seed: int = 0) -> nn.ModuleDict:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        parts = build_parts(c.Encoder(width=4, projector=c.Head(hidden=8, out=4)), 1, SHARDS).double().train()
        disturb(parts, seed)
    return parts


def disturb(parts: nn.Module, seed: int) -> None:
    """Other weights and running statistics, as if the student had learned; means around 0 keep channels alive."""
    generator = torch.Generator().manual_seed(seed)
    for p in parts.parameters():
        p.data += 0.2 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    for name, b in parts.named_buffers():
        b += torch.rand(b.shape, generator=generator, dtype=b.dtype) - (0.5 if name.endswith("mean") else 0.0)


def teacher_of(
    parts: nn.ModuleDict, seed: int = 0, norm: object = "batch", placement: object = "whole", **smoothing: object
) -> Teacher:
    """Of constant momentum `momentum`, but for parts in `momenta`; `norm` is a kind, or all of its keys."""
    momentum = {"kind": "constant", "base": smoothing.pop("momentum", 0.9)}
    config = {
        "momentum": momentum,
        "momenta": smoothing.pop("momenta", {}),
        "smoothing": smoothing,
        "norm": {"kind": norm} if isinstance(norm, str) else norm,
        "placement": placement,
    }
    return Teacher(c.Teacher.model_validate(config), parts, seed).train()


def parameters(module: nn.Module) -> Numbers:
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def buffers(module: nn.Module) -> Numbers:
    return {name: b.clone() for name, b in module.named_buffers()}


def same(a: Numbers, b: Numbers) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
