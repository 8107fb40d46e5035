"""Randomness that is keyed, never drawn from a stream: a key gives the same numbers on any worker and device."""

import math
import zlib

import torch
import torch.nn.functional as F
from torch import Tensor

_GOLDEN, _MIX1, _MIX2 = (
    -7046029254386353131,
    -4658895280553007687,
    -7723592293110705685,
)  # splitmix64's constants as signed integers
_IN_CACHE = 2**17  # numbers that are drawn at a time on a CPU
_ON_DEVICE = 2**22  # and elsewhere, where it bounds the memory
_BLOCK = 512  # numbers among which one that is undecided is looked for at once


def uniform(samples: Tensor, count: int, *key: int | str, dtype: torch.dtype = torch.float32) -> Tensor:
    """Returns uniform numbers in [0, 1) with 24 random bits, [len(samples), count].

    A row is a function of its sample and the key alone.

    Args:
        samples: int64 [N], such as indices of images; the result lives on their device.
        count: how many numbers a sample gets.
        key: what else the numbers depend on, such as seed, epoch and a purpose.
        dtype: of the result.
    """
    rows = _mix(samples.to(torch.int64) * _GOLDEN + _seed(key))
    draws = torch.arange(1, count + 1, device=samples.device) * _GOLDEN
    return ((_mix(rows[:, None] + draws) >> 40) & 0xFFFFFF).to(dtype) / 2**24


def normal(samples: Tensor, count: int, *key: int | str, dtype: torch.dtype = torch.float32) -> Tensor:
    """Returns standard normal numbers [len(samples), count], as `uniform` does.

    Each is made from two uniform numbers (Box-Muller), so it is at most 5.8 in size.
    """
    first, second = uniform(samples, 2 * count, *key, dtype=dtype).split(count, dim=1)
    return (-2 * torch.log1p(-first)).sqrt() * torch.cos(2 * math.pi * second)


def choices(count: int, chance: float, *key: int | str, device: torch.device | str = "cpu") -> Tensor:
    """Returns bool [count], each True with a chance.

    For millions of numbers it is many times cheaper than `below`, because four numbers share a word. 16 bits decide,
    unless they equal those of the chance, which happens to one number in 65,536; then 48 further bits decide.
    """
    bar, rest = divmod(chance * 2**16, 1.0)
    if bar == 2**16:
        return torch.ones(count, dtype=torch.bool, device=device)
    level, seed = int(bar) - 2**15, _seed(key)  # numbers go from -2^15 to 2^15 - 1
    found, undecided = torch.empty(2, -(-count // _BLOCK) * _BLOCK, dtype=torch.bool, device=device)
    at_once, first = _IN_CACHE if found.device.type == "cpu" else _ON_DEVICE, 1
    for below_it, equal in zip(found.split(at_once), undecided.split(at_once), strict=True):
        words = torch.arange(first, first + len(equal) // 4, device=device).mul_(_GOLDEN).add_(seed)
        first += len(words)
        drawn = _mix_(words).view(torch.int16)
        torch.lt(drawn, level, out=below_it)
        if rest:
            torch.eq(drawn, level, out=equal)
    if rest:
        _decide(found, undecided, rest, key)
    return found[:count]


def below(count: int, chance: float, *key: int | str, device: torch.device | str = "cpu") -> Tensor:
    """Whether uniform numbers are below a chance: bool [count].

    The 24 bits that `uniform` gives decide, unless they equal those of the chance; then 48 further bits do.
    """
    # whole numbers, exact in float32
    drawn = uniform(torch.zeros(1, dtype=torch.int64, device=device), count, *key)[0] * 2**24
    drawn = F.pad(drawn, (0, -count % _BLOCK), value=2**24)  # whole blocks
    bar, rest = divmod(chance * 2**24, 1.0)
    found = drawn < bar
    if rest:
        _decide(found, drawn == bar, rest, key)
    return found[:count]


def _decide(found: Tensor, undecided: Tensor, rest: float, key: tuple[int | str, ...]) -> None:
    """Sets `found`, False so far, where the first bits equal those of a chance: further bits are below its `rest`."""
    (_decide_few if found.device.type == "cpu" else _decide_all)(found, undecided, rest, key)


def _decide_few(found: Tensor, undecided: Tensor, rest: float, key: tuple[int | str, ...]) -> None:
    """Draws further bits for the few numbers that need them. Blocks with such numbers are found first, for speed."""
    blocks = undecided.view(torch.int64).view(-1, _BLOCK // 8).amax(1).nonzero()
    at = (blocks * _BLOCK + torch.arange(_BLOCK, device=found.device)).flatten()
    at = at[undecided[at]]
    found[at] = _further(at, rest, key)


def _decide_all(found: Tensor, undecided: Tensor, rest: float, key: tuple[int | str, ...]) -> None:
    """Draws further bits for all: only the device knows how many need them, and a step does not wait for it."""
    first = 0
    for piece, equal in zip(found.split(_ON_DEVICE), undecided.split(_ON_DEVICE), strict=True):
        piece |= equal & _further(torch.arange(first, first + len(piece), device=found.device), rest, key)
        first += len(piece)


def _further(at: Tensor, rest: float, key: tuple[int | str, ...]) -> Tensor:
    """Returns whether 48 bits of the numbers at some places are below the rest of a chance."""
    high, low = uniform(at, 2, *key, "further bits", dtype=torch.float64).unbind(1)
    return high + low / 2**24 < rest


def permutation(count: int, *key: int | str) -> Tensor:
    """Returns a random order of range(count), int64 [count]."""
    return torch.randperm(count, generator=generator(*key))


def generator(*key: int | str) -> torch.Generator:
    """Returns a new generator, seeded by the key."""
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
