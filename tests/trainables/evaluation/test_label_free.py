"""Numbers of embeddings where the answer is known, and the protocol that measures them."""

import math
from itertools import combinations

import pytest
import torch

from trainables.data import augment, keyed
from trainables.evaluation.subject import Subject
from trainables.learning import geometry
from trainables.networks.encoders import backbone_of, run_parts
from trainables.networks.group import Group


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_a_matrix_of_equal_singular_values_has_its_rank(rank, rng):
    left, right = (torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=rng))[0] for size in (20, 8))
    rows = 5 * left[:, :rank] @ right[:rank]
    assert geometry.effective_rank(rows) == pytest.approx(rank, rel=1e-9)


def test_effective_rank_against_the_formula(rng):
    rows = torch.randn(30, 4, generator=rng) * torch.tensor([3.0, 1.0, 0.1, 0.01])
    values = torch.linalg.eigvalsh(rows.double().T @ rows.double()).sqrt().tolist()
    shares = [value / sum(values) for value in values]
    assert geometry.effective_rank(rows) == pytest.approx(math.exp(-sum(s * math.log(s) for s in shares)), rel=1e-9)
    assert geometry.effective_rank(torch.zeros(5, 3)) == pytest.approx(1.0)  # nothing at all is one point


def test_alignment_and_uniformity_against_plain_loops(rng):
    first, second = torch.randn(2, 12, 3, generator=rng, dtype=torch.float64)
    one, other = ([[v / math.hypot(*row) for v in row] for row in view.tolist()] for view in (first, second))
    expected = sum(math.dist(a, b) ** 2 for a, b in zip(one, other, strict=True)) / 12
    assert geometry.alignment(first, second) == pytest.approx(expected, rel=1e-12)
    pairs = [math.exp(-2 * math.dist(a, b) ** 2) for a, b in combinations(one, 2)]
    assert geometry.uniformity(first) == pytest.approx(math.log(sum(pairs) / len(pairs)), rel=1e-12)
    assert geometry.alignment(first, 3 * first) == pytest.approx(0, abs=1e-12) and geometry.alignment(
        first, -first
    ) == pytest.approx(4)
    assert geometry.uniformity(torch.ones(4, 3)) == pytest.approx(0)


def clusters(directions: int, noise: float, generator: torch.Generator) -> torch.Tensor:
    """Views [q, N, D] around samples that differ along some directions alone, by as much along each."""
    views, samples, width = 12, 400, 16
    centres = torch.zeros(samples, width, dtype=torch.float64)
    centres[:, :directions] = torch.randn(samples, directions, generator=generator, dtype=torch.float64)
    return centres + noise * torch.randn(views, samples, width, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("directions", [1, 4, 12])
def test_lidar_counts_the_directions_in_which_samples_differ(directions, rng):
    assert geometry.lidar(clusters(directions, 0.05, rng)) == pytest.approx(directions, rel=0.05)


def test_lidar_discounts_directions_in_which_views_differ(rng):
    """Which RankMe counts like any other: noise along eight axes does not tell samples apart."""
    views = clusters(4, 0.001, rng)
    noisy = views.clone()
    noisy[..., 8:] += 2 * torch.randn(noisy[..., 8:].shape, generator=rng, dtype=torch.float64)
    assert geometry.lidar(noisy) == pytest.approx(4, rel=0.15)
    assert geometry.effective_rank(noisy[0]) > 10 > 5 > geometry.effective_rank(views[0])


def test_lidar_against_the_formula(rng):
    """With the symmetric root of the inverse, as it is written in the paper."""
    views = torch.randn(3, 7, 4, generator=rng, dtype=torch.float64) + torch.randn(
        7, 4, generator=rng, dtype=torch.float64
    )
    mean = [sum(views[q, n] for q in range(3)) / 3 for n in range(7)]
    middle = sum(mean) / 7
    between = sum(torch.outer(m - middle, m - middle) for m in mean) / 7
    within = sum(
        torch.outer(views[q, n] - mean[n], views[q, n] - mean[n]) for q in range(3) for n in range(7)
    ) / 21 + 1e-4 * torch.eye(4)
    values, vectors = torch.linalg.eigh(within)
    root = vectors @ torch.diag(values**-0.5) @ vectors.T
    shares = torch.linalg.eigvalsh(root @ between @ root)
    shares = (shares / shares.sum()).tolist()
    assert geometry.lidar(views) == pytest.approx(math.exp(-sum(s * math.log(s) for s in shares)), rel=1e-9)


@pytest.mark.parametrize("output", ["features", "projections"])
def test_the_protocol_looks_at_training_images_with_or_without_labels(tiny, digits, learner_of, output):
    """As many as it names, un-augmented and in views as the trial trains on, keyed apart from training."""
    options = {"images": 20, "views": 3, "output": output}
    config = tiny({"evaluation.label_free": options, "data.labels.per_class": 1, "seed": 5})
    parts = learner_of(config).student.parts
    found = config.evaluation.protocol("label_free").measure(Subject(parts, config, digits, digits, Group()))
    index = keyed.permutation(64, 5, "label_free")[:20].sort().values
    images = digits.batch(index, torch.device("cpu"), torch.float32)
    network = (parts if output == "projections" else backbone_of(parts)).eval()
    with torch.no_grad():
        plain = run_parts(network, augment.standardise(images))
        views = torch.stack(
            [
                run_parts(network, augment.view(images, index, v, "full", config.views, 5, "label_free"))
                for v in range(3)
            ]
        )
    expected = {
        "rankme": geometry.effective_rank(plain),
        "lidar": geometry.lidar(views),
        "alignment": geometry.alignment(views[0], views[1]),
        "uniformity": geometry.uniformity(views[0]),
    }
    assert found == pytest.approx(expected, rel=1e-4)
    assert 1 < found["rankme"] < 16 and 0 < found["alignment"] < 4
