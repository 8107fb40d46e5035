"""Randomness that is keyed, never drawn from a stream: the same keys give the same numbers on any worker, device and resume."""

import math
import zlib

import torch
from torch import Tensor

_GOLDEN, _MIX1, _MIX2 = -7046029254386353131, -4658895280553007687, -7723592293110705685  # splitmix64's constants as signed integers
_IN_CACHE = 2**15  # words that are mixed at a time on a CPU


def uniform(samples: Tensor, count: int, *key: int | str, dtype: torch.dtype = torch.float32) -> Tensor:
    """Uniform numbers in [0, 1) with 24 random bits: [len(samples), count], a row a function of its sample and the key alone.

    Args:
        samples: int64 [N], such as indices of images; the result lives on their device.
        count: how many numbers a sample gets.
        key: what else the numbers depend on, such as seed, epoch and a purpose.
        dtype: of the result.
    """
    state = torch.tensor(_seed(key), dtype=torch.int64, device=samples.device)
    rows = _mix(samples.to(torch.int64) * _GOLDEN + state)
    draws = torch.arange(1, count + 1, device=samples.device) * _GOLDEN
    return ((_mix(rows[:, None] + draws) >> 40) & 0xFFFFFF).to(dtype) / 2**24


def normal(samples: Tensor, count: int, *key: int | str, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal numbers, at most 5.8 in size, from twice as many uniform ones (Box-Muller): [len(samples), count], as `uniform`."""
    first, second = uniform(samples, 2 * count, *key, dtype=dtype).split(count, dim=1)
    return (-2 * torch.log1p(-first)).sqrt() * torch.cos(2 * math.pi * second)


def choices(count: int, chance: float, *key: int | str, device: torch.device | str = "cpu") -> Tensor:
    """True with a chance, which is rounded to 16 bits: bool [count]. Many times cheaper than `uniform` where there are millions."""
    words = torch.arange(1, -(-count // 4) + 1, device=device).mul_(_GOLDEN).add_(_seed(key))
    for piece in words.split(_IN_CACHE if words.device.type == "cpu" else len(words)):
        _mix_(piece)
    drawn, bar = words.view(torch.int16)[:count], round(chance * 2**16) - 2**15  # numbers from -2^15 to 2^15 - 1
    return drawn < bar if bar < 2**15 else torch.ones_like(drawn, dtype=torch.bool)


def permutation(count: int, *key: int | str) -> Tensor:
    """A random order of range(count): int64 [count]."""
    return torch.randperm(count, generator=generator(*key))


def generator(*key: int | str) -> torch.Generator:
    """A fresh generator, seeded by the key."""
    return torch.Generator().manual_seed(_seed(key) & (2**63 - 1))


def _seed(key: tuple[int | str, ...]) -> int:
    state = torch.zeros((), dtype=torch.int64)
    for part in key:
        number = zlib.crc32(part.encode()) if isinstance(part, str) else part
        state = _mix(state + _GOLDEN + number)
    return int(state)


def _mix(x: Tensor) -> Tensor:
    """The finaliser of splitmix64; integer products wrap, and the masks make arithmetic shifts logical."""
    return _mix_(x.clone())


def _mix_(x: Tensor) -> Tensor:
    for shift, mask, factor in ((30, 2**34 - 1, _MIX1), (27, 2**37 - 1, _MIX2)):
        x.bitwise_xor_((x >> shift).bitwise_and_(mask)).mul_(factor)
    return x.bitwise_xor_((x >> 31).bitwise_and_(2**33 - 1))
