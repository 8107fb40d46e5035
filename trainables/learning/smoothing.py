"""Updates of the teacher's units, each of which is averaged or kept as a whole (Spatial Ensemble, alg. 1-2)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from trainables.data import keyed

Key = tuple[int | str, ...]


def blend(own: Sequence[Tensor], students: Sequence[Tensor], shares: Sequence[float]) -> None:
    """own <- (1 - share) own + share student for all units, tensor by tensor, in place: a temporal moving average."""
    for share in set(shares):
        chosen = [index for index, s in enumerate(shares) if s == share]
        torch._foreach_lerp_([own[index] for index in chosen], [students[index] for index in chosen], share)


def blend_layers(
    own: Sequence[Tensor], students: Sequence[Tensor], shares: Sequence[float], p: float, key: Key
) -> None:
    """The same where each tensor as a whole is kept with probability p."""
    keep = keyed.below(len(own), p, *key).tolist()
    moved = [index for index, kept in enumerate(keep) if not kept]
    blend([own[i] for i in moved], [students[i] for i in moved], [shares[i] for i in moved])


def blend_channels(
    own: Sequence[Tensor],
    students: Sequence[Tensor],
    shares: Sequence[float],
    p: float,
    key: Key,
    coupled: bool = False,
) -> None:
    """The same where each index of a tensor's first dimension is kept with probability p.

    Coupled, a vector shares its draws with the matrix before it where their lengths agree: a layer's bias, and the norm
    behind a layer.
    """
    device, widths = own[0].device, [len(tensor) for tensor in own]
    follows = [
        index > 0 and tensor.ndim == 1 and coupled and len(tensor) == widths[index - 1]
        for index, tensor in enumerate(own)
    ]
    drawn = [width for width, follow in zip(widths, follows, strict=True) if not follow]
    updated = ~keyed.below(sum(drawn), p, *key, device=device)
    pieces = iter(updated.to(own[0].dtype).split(drawn))
    piece = updated
    for tensor, student, share, follow in zip(own, students, shares, follows, strict=True):
        piece = piece if follow else next(pieces)
        tensor.lerp_(student, (piece * share).view(-1, *[1] * (tensor.ndim - 1)))


def blend_neurons(
    own: Sequence[Tensor], students: Sequence[Tensor], shares: Sequence[float], p: float, key: Key
) -> None:
    """The same where each number is kept with probability p."""
    sizes = [tensor.numel() for tensor in own]
    updated = keyed.choices(sum(sizes), p, *key, device=own[0].device).logical_not_().to(own[0].dtype)
    pieces = [piece.as_strided(t.shape, t.stride()) for piece, t in zip(updated.split(sizes), own, strict=True)]
    torch._foreach_mul_(pieces, list(shares))
    torch._foreach_lerp_(list(own), list(students), pieces)
