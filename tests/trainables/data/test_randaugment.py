"""RandAugment: each operation against what it says, each picture by itself."""

import math

import pytest
import torch
from torch import Tensor

from trainables.config import trial as c
from trainables.data.randaugment import OPERATIONS, cut_out, randaugment


def pictures(count: int = 6, channels: int = 3, side: int = 12) -> Tensor:
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def level(value: float, count: int = 6) -> Tensor:
    return torch.full((count, 1, 1, 1), value, dtype=torch.float64)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_depends_on_its_own_sample_alone(channels):
    x, samples = pictures(40, channels), torch.arange(40) * 7
    whole = randaugment(x, samples, c.RandAugment(), 3, 5)
    chosen = torch.tensor([30, 2, 17])
    assert torch.equal(randaugment(x[chosen], samples[chosen], c.RandAugment(), 3, 5), whole[chosen])
    assert not torch.equal(randaugment(x, samples, c.RandAugment(), 3, 6), whole)
    assert whole.min() >= 0 and whole.max() <= 1 and whole.shape == x.shape
    assert all(
        not torch.equal(before, after) for before, after in zip(x, whole, strict=True)
    )  # the square alone changes each


def test_operations_are_drawn_alike(monkeypatch):
    """Of 2,800 pictures about 200 meet each of the 14 operations, at levels of 1 to 9 tenths, to either side."""
    met: dict[str, list[float]] = {name: [] for name in OPERATIONS}
    for name in OPERATIONS:
        monkeypatch.setitem(OPERATIONS, name, lambda x, level, own=met[name]: own.extend(level.flatten().tolist()) or x)
    randaugment(torch.zeros(2800, 1, 4, 4), torch.arange(2800), c.RandAugment(ops=1, cutout=0), 0)
    assert len(met) == 14 and all(abs(len(levels) - 200) < 4 * math.sqrt(200) for levels in met.values())
    tenths = {round(level * 10) for levels in met.values() for level in levels}
    assert tenths == {sign * level for sign in (-1, 1) for level in range(1, 10)}


@pytest.mark.parametrize("name", list(OPERATIONS))
@pytest.mark.parametrize("channels", [1, 3])
def test_each_operation_keeps_shape_and_changes_what_it_should(name, channels):
    x = 0.2 + 0.6 * pictures(channels=channels, side=32).square()
    weak, strong = (OPERATIONS[name](x, level(value)).clamp(0, 1) for value in (0.1, 0.9))
    assert weak.shape == x.shape and weak.isfinite().all()
    moved = [(y - x).abs().mean().item() for y in (weak, strong)]
    if name == "identity" or (name == "color" and channels == 1):
        assert moved == [pytest.approx(0, abs=1e-12)] * 2
    else:
        assert max(moved) > 0.005
    if name == "solarize":
        assert moved[1] > moved[0]


def test_operations_by_their_formulas():
    x = pictures()
    torch.testing.assert_close(OPERATIONS["brightness"](x, level(0.5)), x * 0.5)
    grey = (x * torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)[:, None, None]).sum(1, keepdim=True)
    torch.testing.assert_close(OPERATIONS["color"](x, level(0.5)), 0.5 * x + 0.5 * grey)
    torch.testing.assert_close(
        OPERATIONS["contrast"](x, level(0.5)), 0.5 * x + 0.5 * grey.mean((1, 2, 3), keepdim=True)
    )
    torch.testing.assert_close(OPERATIONS["solarize"](x, level(0.25)), torch.where(x < 0.75, x, 1 - x))
    assert (
        len((OPERATIONS["posterize"](x, level(0.1)) * 255).unique()) <= 16
        and len((OPERATIONS["posterize"](x, level(0.9)) * 255).unique()) > 64
    )
    shifted = OPERATIONS["translate_x"](x, level(0.5 / 0.9))  # a third of 0.5 is a sixth of the side: two pixels
    torch.testing.assert_close(shifted[..., :10], x[..., 2:])
    assert (shifted[..., 10:] - 0.5).abs().max() < 1e-12
    inner = OPERATIONS["sharpness"](x, level(0.5))[..., 4, 4]
    smooth = (x[..., 3:6, 3:6].sum((-1, -2)) + 4 * x[..., 4, 4]) / 13
    torch.testing.assert_close(inner, 0.5 * x[..., 4, 4] + 0.5 * smooth)
    stretched = OPERATIONS["autocontrast"](0.25 + x / 2, level(0.5))
    assert stretched.amin((-1, -2)).abs().max() < 1e-12 and (stretched.amax((-1, -2)) - 1).abs().max() < 1e-12


def test_cutout_is_a_grey_square_of_its_share():
    x = torch.zeros(400, 1, 16, 16, dtype=torch.float64)
    square = cut_out(x, torch.rand(2, 400, generator=torch.Generator().manual_seed(0)).unbind(), 0.5) == 0.5
    for axis in (2, 3):
        widths = square.any(axis).sum(-1)
        assert widths.max() == 8 and widths.min() == 4  # half of it is lost at a border
    assert torch.equal(square.flatten(1).sum(1), square.any(2).sum((1, 2)) * square.any(3).sum((1, 2)))
