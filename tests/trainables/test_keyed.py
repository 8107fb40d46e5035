"""Keyed randomness against the same hash in plain Python integers."""

import math
import zlib

import pytest
import torch

from trainables import keyed

WORD, GOLDEN = 2**64 - 1, 0x9E3779B97F4A7C15
REMEMBERED = [[5305977, 6385552, 10254818], [10673944, 2851110, 366723]]  # of plain_uniform, times 2^24


def mix(x: int) -> int:
    """The finaliser of splitmix64, on unsigned 64-bit integers."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & WORD
    return x ^ (x >> 31)


def plain_seed(*key: int | str) -> int:
    state = 0
    for part in key:
        state = mix((state + GOLDEN + (zlib.crc32(part.encode()) if isinstance(part, str) else part)) & WORD)
    return state


def plain_uniform(sample: int, count: int, *key: int | str) -> list[float]:
    row = mix((sample * GOLDEN + plain_seed(*key)) & WORD)
    return [(mix((row + draw * GOLDEN) & WORD) >> 40) / 2**24 for draw in range(1, count + 1)]


@pytest.mark.parametrize("key", [(), (0,), (3, 7, "view 1"), (2**31 - 1, "mask"), (-5, 10**12)])
def test_numbers_equal_the_hash_in_plain_integers(key):
    samples = [0, 1, 2, 63, 10**6, 2**40]
    found = keyed.uniform(torch.tensor(samples), 5, *key, dtype=torch.float64)
    assert found.tolist() == [plain_uniform(sample, 5, *key) for sample in samples]


def test_numbers_are_what_they_have_always_been():
    """A change here changes every trial, and breaks the resume of old ones."""
    found = keyed.uniform(torch.tensor([0, 41]), 3, 7, 2, "view 0", dtype=torch.float64) * 2**24
    assert found.tolist() == REMEMBERED


def test_a_number_depends_on_its_own_sample_alone():
    everyone = keyed.uniform(torch.arange(100), 4, 1, "x")
    chosen = torch.tensor([97, 3, 3, 50])
    assert torch.equal(keyed.uniform(chosen, 4, 1, "x"), everyone[chosen])
    assert torch.equal(keyed.uniform(torch.tensor([50]), 2, 1, "x"), everyone[50:51, :2])


def test_other_keys_give_other_numbers():
    keys = [(), (0,), (0, 0), (1, 2), (2, 1), (12,), ("a",), ("b",), ("a", 0), (0, "a")]
    rows = {tuple(keyed.uniform(torch.tensor([5]), 4, *key)[0].tolist()) for key in keys}
    assert len(rows) == len(keys)


def test_double_precision_has_the_same_numbers():
    single, double = (keyed.uniform(torch.arange(50), 3, 4, dtype=dtype) for dtype in (torch.float32, torch.float64))
    assert torch.equal(single.double(), double)


def test_normal_numbers_are_pairs_of_uniform_ones():
    """Box and Muller's formula in plain numbers; the first half of a row gives the radii, the second the angles."""
    found = keyed.normal(torch.tensor([3, 9]), 4, 7, "noise", dtype=torch.float64)
    for sample, row in zip((3, 9), found.tolist(), strict=True):
        plain = plain_uniform(sample, 8, 7, "noise")
        expected = [math.sqrt(-2 * math.log(1 - a)) * math.cos(2 * math.pi * b) for a, b in zip(plain[:4], plain[4:], strict=True)]
        assert row == pytest.approx(expected, rel=1e-12)


def test_numbers_are_uniform_and_uncorrelated():
    """Bounds of about five standard deviations; the numbers are fixed, so the test cannot flicker."""
    x = keyed.uniform(torch.arange(20_000), 8, 11, "uniformity", dtype=torch.float64)
    assert x.min() >= 0 and x.max() < 1
    assert (x.mean(0) - 0.5).abs().max() < 5 * (1 / 12 / 20_000) ** 0.5
    counts = torch.histc(x, bins=64, min=0, max=1)
    expected = x.numel() / 64
    chi_square = ((counts - expected) ** 2 / expected).sum().item()
    assert 63 - 5 * (2 * 63) ** 0.5 < chi_square < 63 + 5 * (2 * 63) ** 0.5
    off_diagonal = torch.corrcoef(x.T) - torch.eye(8)
    assert off_diagonal.abs().max() < 5 / 20_000**0.5
    neighbours = torch.corrcoef(torch.stack([x[:-1, 0], x[1:, 0]]))[0, 1]
    assert abs(neighbours) < 5 / 20_000**0.5


def test_permutations_are_keyed_and_leave_the_global_generator_alone():
    state = torch.get_rng_state()
    first = keyed.permutation(100, 0, 3, "order")
    assert torch.equal(first.sort().values, torch.arange(100))
    assert torch.equal(first, keyed.permutation(100, 0, 3, "order"))
    others = [keyed.permutation(100, *key) for key in ((0, 4, "order"), (1, 3, "order"), (0, 3, "linear"))]
    assert not any(torch.equal(first, other) for other in others)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("chance", [0.0, 2**-17, 0.3, 0.7, 1 - 2**-17, 1.0])
def test_choices_equal_the_hash_in_plain_integers(chance):
    """Four of 16 bits a word, the lowest first; more words than are mixed at a time."""
    count, key = 4 * 40_000 - 1, (5, "choice")
    found = keyed.choices(count, chance, *key)
    assert found.dtype == torch.bool and found.shape == (count,)
    for index in (*range(9), *range(131_070, 131_080), count - 1):
        word = mix(((index // 4 + 1) * GOLDEN + plain_seed(*key)) & WORD)
        bits = (word >> 16 * (index % 4)) & 0xFFFF
        signed = bits - 2**16 if bits >= 2**15 else bits
        assert bool(found[index]) == (signed + 2**15 < round(chance * 2**16))
    assert abs(found.double().mean().item() - chance) < 5 * (chance * (1 - chance) / count) ** 0.5 + 2**-16
    pairs = torch.stack([found[:-1], found[1:]]).double()
    assert chance in (0.0, 1.0) or min(chance, 1 - chance) < 0.01 or abs(torch.corrcoef(pairs)[0, 1]) < 5 / count**0.5
