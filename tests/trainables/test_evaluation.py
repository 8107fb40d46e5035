"""kNN and the linear protocol against plain loops, and the features that they score."""

import math

import pytest
import torch

from trainables import augment, evaluation, train
from trainables import config as c
from trainables.data import Images
from trainables.encoders import backbone_of, build_parts, run_parts
from trainables.evaluation import Features, knn, linear
from trainables.group import Group
from trainables.learner import Learner
from trainables.norm import Shards


def clouds(count: int, classes: int, spread: float, seed: int) -> Features:
    """Points around the corners of a simplex, far from the origin and in unlike units."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    x = torch.eye(classes)[labels] + spread * torch.randn(count, classes, generator=generator)
    return Features(x * torch.logspace(-2, 2, classes) + 5, labels)


def plain_knn(bank: Features, queries: Features, k: int, temperature: float) -> float:
    keys, right = [[v / math.hypot(*row) for v in row] for row in bank.x.tolist()], 0
    for row, label in zip(queries.x.tolist(), queries.labels.tolist(), strict=True):
        size = math.hypot(*row)
        cosines = [sum(a * b / size for a, b in zip(row, key, strict=True)) for key in keys]
        votes: dict[int, float] = {}
        for index in sorted(range(len(keys)), key=lambda i: -cosines[i])[:k]:
            answer = int(bank.labels[index])
            votes[answer] = votes.get(answer, 0.0) + math.exp(cosines[index] / temperature)
        right += max(votes, key=lambda answer: votes[answer]) == label
    return right / len(queries.labels)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (5, 0.07), (20, 0.5), (10_000, 0.07), (10_000, 0.01)])
def test_knn_equals_a_plain_loop(k, temperature):
    """Also where k exceeds the bank, and where a few near ones must outweigh many far ones."""
    generator = torch.Generator().manual_seed(k)
    bank = Features(torch.randn(90, 6, generator=generator) * 3 + 1, torch.randint(0, 5, (90,), generator=generator))
    queries = Features(bank.x[:60] + 2 * torch.randn(60, 6, generator=generator), bank.labels[:60])
    found = knn.evaluate(bank, queries, c.KNN(k=k, temperature=temperature))["knn_top1"]
    assert found == plain_knn(bank, queries, k, temperature)
    assert 0.2 < found <= 1


def test_knn_in_chunks_and_labels_that_the_bank_lacks(monkeypatch):
    bank, queries = clouds(60, 4, 0.05, seed=0), clouds(50, 4, 0.05, seed=1)
    whole = knn.evaluate(bank, queries, c.KNN())
    monkeypatch.setattr(knn, "CHUNK", 7)
    assert knn.evaluate(bank, queries, c.KNN()) == whole
    unknown = Features(queries.x, queries.labels + 4)
    assert knn.evaluate(bank, unknown, c.KNN()) == {"knn_top1": 0.0}


def test_a_small_temperature_does_not_overflow():
    bank = clouds(60, 4, 0.01, seed=0)
    assert knn.evaluate(bank, bank, c.KNN(k=1, temperature=1e-4)) == {"knn_top1": 1.0}


def test_the_linear_protocol_separates_what_is_separable():
    bank, queries = clouds(400, 6, 0.12, seed=0), clouds(200, 6, 0.12, seed=1)
    classifier = linear.train(bank, c.LinearProbe(epochs=30))
    scores = linear.score(classifier, queries)
    assert scores["linear_top1"] > 0.97 and scores["linear_top5"] >= scores["linear_top1"]
    shuffled = Features(bank.x, bank.labels[torch.randperm(400, generator=torch.Generator().manual_seed(0))])
    assert linear.score(linear.train(shuffled, c.LinearProbe(epochs=30)), queries)["linear_top1"] < 0.5


def test_the_classifier_of_raw_features_equals_that_of_standardised_ones(monkeypatch):
    bank, kept = clouds(120, 4, 0.3, seed=0), []
    rewrite = linear._for_raw_features
    monkeypatch.setattr(
        linear, "_for_raw_features", lambda weight, bias, mean, std: kept.extend((weight, bias)) or rewrite(weight, bias, mean, std)
    )
    classifier = linear.train(bank, c.LinearProbe(epochs=3))
    weight, bias = (t.double() for t in kept)
    x = bank.x.double()
    expected = (x - x.mean(0)) / x.std(0) @ weight.T + bias
    torch.testing.assert_close(classifier(bank.x).double(), expected, rtol=1e-3, atol=1e-3)


def test_the_linear_protocol_is_keyed_and_takes_constant_features():
    bank = clouds(60, 4, 0.3, seed=0)
    bank = Features(torch.cat([bank.x, torch.zeros(60, 2)], dim=1), bank.labels)
    first, again = (linear.train(bank, c.LinearProbe(epochs=2, batch_size=16)) for _ in range(2))
    assert torch.equal(first.weight, again.weight) and first.weight.isfinite().all()
    other = linear.train(bank, c.LinearProbe(epochs=2, batch_size=16), seed=1)
    assert not torch.equal(first.weight, other.weight)


def test_top1_and_top5_against_a_sort():
    generator = torch.Generator().manual_seed(3)
    queries = Features(torch.randn(50, 8, generator=generator), torch.randint(0, 7, (50,), generator=generator))
    classifier = torch.nn.Linear(8, 7)
    order = [sorted(range(7), key=lambda i: -row[i]) for row in classifier(queries.x).tolist()]
    for name, best in (("linear_top1", 1), ("linear_top5", 5)):
        expected = sum(label in ranked[:best] for ranked, label in zip(order, queries.labels.tolist(), strict=True)) / 50
        assert linear.score(classifier, queries)[name] == pytest.approx(expected)


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_features_are_those_of_evaluation_mode_and_leave_the_network_as_it_was(batch_size, rng):
    config = c.Encoder(width=4, projector=c.Head(hidden=8, out=4))
    parts = build_parts(config, 3, Shards(8, 1, range(1))).train()
    parts["block2"].eval()
    pixels = torch.randint(0, 256, (23, 8, 8, 3), dtype=torch.uint8, generator=rng)
    images = Images(pixels, torch.arange(2, 23), torch.arange(21) % 3)
    before = {name: tensor.clone() for name, tensor in parts.state_dict().items()}
    found = evaluation.encode(parts, images, batch_size, Group())
    assert all(torch.equal(tensor, before[name]) for name, tensor in parts.state_dict().items())
    assert parts["block1"].training and not any(module.training for module in parts["block2"].modules())
    assert torch.equal(found.labels, images.labels)
    parts.eval()
    with torch.no_grad():
        expected = run_parts(backbone_of(parts), augment.standardise(pixels[2:].permute(0, 3, 1, 2) / 255))
    torch.testing.assert_close(found.x, expected, rtol=1e-4, atol=1e-5)


def test_a_trial_may_be_scored_on_features_before_the_feature_norm(tiny, digits):
    config = tiny({"encoder.feature_norm": "pooled", "evaluation.before_feature_norm": True})
    learner = Learner(config, 1, 64, Group())
    with torch.no_grad():
        norm = learner.student.parts["block4"][-1]
        norm.running_mean += 1.0
        norm.running_var *= 4.0
    before, _ = train.features(learner.student.parts, digits, digits, config, Group())
    after = evaluation.encode(learner.student.parts, digits, 64, Group())
    torch.testing.assert_close((before.x - 1) / (4 + 1e-5) ** 0.5, after.x)
