"""BYOL's loss against its formula."""

import pytest
import torch

from tests.trainables.passes import given, pairs
from trainables.learning.methods.byol import BYOL


def cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a * b).sum(-1) / (a.square().sum(-1).sqrt() * b.square().sum(-1).sqrt())


def loss(predictions: torch.Tensor, targets: torch.Tensor, **options: str) -> torch.Tensor:
    return BYOL.model_validate(options).loss(given(predictions, targets))


def test_invariant_47_the_sum_is_4_plus_4_times_the_mean_of_negative_cosines(rng):
    """Fails when 1 stands for 2."""
    p, t = pairs(rng)
    mean = -(cosine(p[0], t[1]) + cosine(p[1], t[0])) / 2
    torch.testing.assert_close(loss(p, t), 4 + 4 * mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(loss(p, t, convention="mean"), mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(loss(p, t, convention="cosine"), 4 * mean, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("convention", "low", "high"), [("sum", 0.0, 8.0), ("cosine", -4.0, 4.0), ("mean", -1.0, 1.0)])
def test_invariant_47_its_ends(rng, convention, low, high):
    """Fails when 1 stands for 2."""
    p, _ = pairs(rng)
    for target, end in ((p.flip(0), low), (-p.flip(0), high)):
        torch.testing.assert_close(
            loss(p, target, convention=convention), torch.full((7,), end, dtype=torch.float64), rtol=0, atol=1e-12
        )


def test_invariant_47_lengths_do_not_matter(rng):
    """Fails when products stand for cosines."""
    p, t = pairs(rng)
    scale = torch.rand(2, 7, 1, generator=rng, dtype=torch.float64) + 0.1
    torch.testing.assert_close(loss(3 * p * scale, t / scale), loss(p, t), rtol=1e-12, atol=1e-12)


def test_invariant_48_the_order_of_the_views_does_not_matter(rng):
    """Fails when both views look at the second target."""
    p, t = pairs(rng)
    assert torch.equal(loss(p.flip(0), t.flip(0)), loss(p, t))
    assert not torch.allclose(loss(p.flip(0), t), loss(p, t))
