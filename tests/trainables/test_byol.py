"""BYOL's loss against its formula."""

import torch

from trainables.methods import byol


def cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a * b).sum(-1) / (a.square().sum(-1).sqrt() * b.square().sum(-1).sqrt())


def pairs(rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    predictions, targets = torch.randn(2, 2, 7, 5, generator=rng, dtype=torch.float64)
    return predictions, targets


def test_invariant_47_the_sum_is_4_plus_4_times_the_mean_of_negative_cosines(rng):
    """Fails when 1 stands for 2."""
    p, t = pairs(rng)
    mean = -(cosine(p[0], t[1]) + cosine(p[1], t[0])) / 2
    torch.testing.assert_close(byol.loss(p, t), 4 + 4 * mean, rtol=1e-12, atol=1e-12)


def test_invariant_47_its_ends(rng):
    """Fails when 1 stands for 2."""
    p, _ = pairs(rng)
    torch.testing.assert_close(byol.loss(p, p.flip(0)), torch.zeros(7, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(byol.loss(p, -p.flip(0)), torch.full((7,), 8.0, dtype=torch.float64), rtol=0, atol=1e-12)


def test_invariant_47_lengths_do_not_matter(rng):
    """Fails when products stand for cosines."""
    p, t = pairs(rng)
    scale = torch.rand(2, 7, 1, generator=rng, dtype=torch.float64) + 0.1
    torch.testing.assert_close(byol.loss(3 * p * scale, t / scale), byol.loss(p, t), rtol=1e-12, atol=1e-12)


def test_invariant_48_the_order_of_the_views_does_not_matter(rng):
    """Fails when both views look at the second target."""
    p, t = pairs(rng)
    assert torch.equal(byol.loss(p.flip(0), t.flip(0)), byol.loss(p, t))
    assert not torch.allclose(byol.loss(p.flip(0), t), byol.loss(p, t))
