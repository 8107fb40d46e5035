"""Keyed randomness against the same hash in plain Python integers."""

import math
import zlib
from fractions import Fraction

import pytest
import torch

from trainables.data import keyed

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
        expected = [
            math.sqrt(-2 * math.log(1 - a)) * math.cos(2 * math.pi * b)
            for a, b in zip(plain[:4], plain[4:], strict=True)
        ]
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


def plain_number(index: int, leading: int, bits: int, *key: int | str) -> Fraction:
    """A number of `bits` leading bits, followed by 48 of its own."""
    high, low = (Fraction(draw) for draw in plain_uniform(index, 2, *key, "further bits"))
    return (leading + high + low / 2**24) / 2**bits


EQUAL_TO_A_CHANCE = [0.3, 0.7, 0.9999, 1 - 2**-17, 2**-17, 1 - 2**-30, 2**-30]
at_every_chance = pytest.mark.parametrize("chance", [0.0, 2**-16, 0.5, *EQUAL_TO_A_CHANCE, 1.0])


@at_every_chance
def test_choices_equal_the_hash_in_plain_integers(chance):
    """Four of 16 bits a word, the lowest first; more words than are mixed at a time; equal 16 bits included."""
    count, key = 4 * 100_000 - 1, (5, "choice")
    found = keyed.choices(count, chance, *key)
    assert found.dtype == torch.bool and found.shape == (count,)
    words = keyed._mix(torch.arange(1, 100_001) * keyed._GOLDEN + keyed._seed(key)).view(torch.int16).int() + 2**15
    undecided = (words[:count] == int(chance * 2**16)).nonzero()[:, 0].tolist()
    assert undecided or chance == 1.0
    for index in (*range(9), *range(131_070, 131_080), count - 1, *undecided):
        word = mix(((index // 4 + 1) * GOLDEN + plain_seed(*key)) & WORD)
        leading = ((word >> 16 * (index % 4)) & 0xFFFF) ^ 0x8000  # as a signed number, from the lowest one on
        assert bool(found[index]) == (plain_number(index, leading, 16, *key) < Fraction(chance)), index
    pairs = torch.stack([found[:-1], found[1:]]).double()
    assert min(chance, 1 - chance) < 0.01 or abs(torch.corrcoef(pairs)[0, 1]) < 5 / count**0.5


@at_every_chance
def test_what_is_below_a_chance_is_decided_by_the_uniform_number_and_further_bits(chance):
    key = (3, "mask", 7)
    found = keyed.below(2_000, chance, *key)
    assert found.dtype == torch.bool and found.shape == (2_000,)
    for index, number in enumerate(plain_uniform(0, 2_000, *key)):
        assert bool(found[index]) == (plain_number(index, round(number * 2**24), 24, *key) < Fraction(chance))


@pytest.mark.parametrize("draw", [keyed.choices, keyed.below])
def test_a_number_that_begins_like_the_chance_is_decided_by_its_further_bits(draw):
    """A chance is laid on a number that was drawn: just above it, it is below the chance, else it is not."""
    key, bits, index = (1, "edge"), 16 if draw is keyed.choices else 24, 1234
    low, high = 0.0, 1.0
    for _ in range(60):  # the number, by halving
        middle = (low + high) / 2
        low, high = (low, middle) if draw(2_000, middle, *key)[index] else (middle, high)
    number = plain_number(index, int(low * 2**bits), bits, *key)
    assert float(number) == pytest.approx(low, abs=2**-52) and number * 2**bits % 1 != 0


@pytest.mark.parametrize("draw", [keyed.choices, keyed.below])
@pytest.mark.parametrize("chance", [1 - 1e-6, 0.9999, 0.7, 1e-6])
def test_a_chance_is_not_rounded(draw, chance):
    """Of 40 million draws as many are true as it says, within four standard deviations; the draws are fixed."""
    # Fails where a chance is rounded to 16 bits: 1 - 1e-6 is then 1, and 0.9999 lets through 7 % too many.
    masks, count = 20, 2_000_000
    other = sum(int((~draw(count, chance, mask, "mask")).sum()) for mask in range(masks))
    draws = masks * count
    assert abs(other - draws * (1 - chance)) < 4 * (draws * chance * (1 - chance)) ** 0.5


@pytest.mark.parametrize("draw", [keyed.choices, keyed.below])
def test_a_draw_does_not_depend_on_how_many_there_are(draw):
    whole = draw(300_000, 0.9999, 2, "mask")
    for count in (1, 6, 65_537, 299_999):
        assert torch.equal(draw(count, 0.9999, 2, "mask"), whole[:count])


def test_numbers_are_the_same_where_further_bits_are_drawn_for_all(monkeypatch: pytest.MonkeyPatch):
    """As on a GPU. Among five million some begin like any chance; chances of `below` are numbers that were drawn."""
    chances = keyed.uniform(torch.zeros(1, dtype=torch.int64), 9, 1, dtype=torch.float64)[0] + 2**-25
    cases = [(keyed.choices, 5_000_001, chance) for chance in (1 - 1e-6, 0.7, 1e-6)]
    cases += [(keyed.below, 3_000, chance) for chance in chances.tolist()]
    few = [draw(count, chance, 1) for draw, count, chance in cases]
    monkeypatch.setattr(keyed, "_decide_few", keyed._decide_all)
    for masks, (draw, count, chance) in zip(few, cases, strict=True):
        assert torch.equal(draw(count, chance, 1), masks)
    monkeypatch.setattr(keyed, "_decide_few", lambda *given: None)
    undecided = [
        (draw(count, chance, 1) != masks).sum() for masks, (draw, count, chance) in zip(few, cases, strict=True)
    ]
    assert (
        min(undecided[:2]) > 9 and sum(undecided[3:]) > 0
    )  # numbers on which further bits decided, and as they did above


@pytest.mark.parametrize("draw", [keyed.choices, keyed.below])
def test_no_draw_waits_for_a_device(draw):
    """A meta tensor has no numbers, so an operation whose result has as many elements as they say fails."""
    assert draw(70_000, 0.7, 2, "mask", device="meta").shape == (70_000,)
