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
    """True with a chance: bool [count]. Many times cheaper than `below` where there are millions: four numbers share a word.

    16 bits decide, unless they equal those of the chance, which happens to one number in 65,536; then 48 bits of its own do.
    """
    words = torch.arange(1, -(-count // 4) + 1, device=device).mul_(_GOLDEN).add_(_seed(key))
    for piece in words.split(_IN_CACHE if words.device.type == "cpu" else len(words)):
        _mix_(piece)
    drawn, (bar, rest) = words.view(torch.int16), divmod(chance * 2**16, 1.0)
    if bar == 2**16:
        return torch.ones(count, dtype=torch.bool, device=drawn.device)
    level = int(bar) - 2**15  # numbers go from -2^15 to 2^15 - 1
    found = drawn < level
    if rest:
        undecided = drawn == level
        of_a_word = undecided.view(torch.int32).nonzero()  # four times as fast as to look at each number
        at = (4 * of_a_word + torch.arange(4, device=drawn.device)).flatten()
        _decide(found, at[undecided[at]], rest, key)
    return found[:count]


def below(count: int, chance: float, *key: int | str, device: torch.device | str = "cpu") -> Tensor:
    """Whether uniform numbers are below a chance: bool [count].

    The 24 bits that `uniform` gives decide, unless they equal those of the chance; then 48 further bits do.
    """
    drawn = uniform(torch.zeros(1, dtype=torch.int64, device=device), count, *key)[0] * 2**24  # whole numbers, exact in float32
    bar, rest = divmod(chance * 2**24, 1.0)
    found = drawn < bar
    if rest:
        _decide(found, (drawn == bar).nonzero()[:, 0], rest, key)
    return found


def _decide(found: Tensor, at: Tensor, rest: float, key: tuple[int | str, ...]) -> None:
    """Sets `found` at the indices `at`, whose first bits equal those of a chance, by 48 further bits against the `rest` of the chance."""
    high, low = uniform(at, 2, *key, "further bits", dtype=torch.float64).unbind(1)
    found[at] = high + low / 2**24 < rest


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
