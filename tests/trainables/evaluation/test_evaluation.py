"""Protocols as such, the features that they score, and kNN against plain loops."""

import math
from collections.abc import Callable
from typing import ClassVar

import pytest
import torch

from trainables.config import trial as c
from trainables.config.evaluation import METRICS, PROTOCOLS
from trainables.data import augment
from trainables.data import images as data
from trainables.data.images import Images
from trainables.evaluation import subject
from trainables.evaluation.measure import measure
from trainables.evaluation.protocols import knn
from trainables.evaluation.protocols.classifier import Classifier
from trainables.evaluation.protocols.knn import KNN
from trainables.evaluation.subject import Features, Subject
from trainables.learning.learner import Learner
from trainables.learning.methods.byol import BYOL
from trainables.networks.encoders import backbone_of, build_parts, run_parts
from trainables.networks.group import Group
from trainables.networks.norms.base import Shards


def clouds(count: int, classes: int, spread: float, seed: int) -> Features:
    """Points around the corners of a simplex, far from the origin and in unlike units."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    x = torch.eye(classes)[labels] + spread * torch.randn(count, classes, generator=generator)
    return Features(x * torch.logspace(-2, 2, classes) + 5, labels)


VOTES = {
    ("cosine", "weighted"): lambda cosine: math.exp(cosine / 0.07),
    ("euclidean", "weighted"): lambda distance: 1 / (distance + 1e-5),
    ("cosine", "majority"): lambda near: 1.0,
    ("euclidean", "majority"): lambda near: 1.0,
}


def plain_knn(bank: Features, queries: Features, k: int, metric: str, vote: Callable[[float], float]) -> float:
    keys, right = bank.x.double().tolist(), 0
    for row, label in zip(queries.x.double().tolist(), queries.labels.tolist(), strict=True):
        if metric == "cosine":
            near = [
                sum(a * b for a, b in zip(row, key, strict=True)) / math.hypot(*row) / math.hypot(*key) for key in keys
            ]
        else:
            near = [math.dist(row, key) for key in keys]
        votes = [0.0] * (max(bank.labels.tolist()) + 1)
        for index in sorted(range(len(keys)), key=lambda i: near[i], reverse=metric == "cosine")[:k]:
            votes[int(bank.labels[index])] += vote(near[index])
        right += votes.index(max(votes)) == label
    return right / len(queries.labels)


@pytest.fixture
def mixed(rng) -> tuple[Features, Features]:
    """A bank and queries near it, hard enough for metrics and votes to differ."""
    bank = Features(torch.randn(90, 6, generator=rng) * 3 + 1, torch.randint(0, 5, (90,), generator=rng))
    return bank, Features(bank.x[:60] + 1.5 * torch.randn(60, 6, generator=rng), bank.labels[:60])


@pytest.mark.parametrize("k", [1, 5, 10_000])
@pytest.mark.parametrize(("metric", "votes"), VOTES)
def test_knn_equals_a_plain_loop(mixed, k, metric, votes):
    """Also where k exceeds the bank, and where a few near ones must outweigh many far ones."""
    found = KNN(k=k, metric=metric, votes=votes).score(*mixed)
    assert found["knn_top1"] == plain_knn(*mixed, k, metric, VOTES[metric, votes])
    assert found["knn1_top1"] == plain_knn(*mixed, 1, metric, VOTES[metric, votes])
    assert 0.1 < found["knn1_top1"] < 1 and (k > 1 or found["knn_top1"] == found["knn1_top1"])


def test_metrics_and_votes_of_knn_differ(mixed):
    scores = {case: KNN(k=20, metric=case[0], votes=case[1]).score(*mixed)["knn_top1"] for case in VOTES}
    assert len(set(scores.values())) > 2, scores


def test_a_temperature_weighs_votes(mixed):
    for temperature in (0.02, 0.5):
        expected = plain_knn(*mixed, 20, "cosine", lambda cosine, t=temperature: math.exp(cosine / t))
        assert KNN(temperature=temperature).score(*mixed)["knn_top1"] == expected


@pytest.mark.parametrize("temperature", [0.003, 0.005, 0.07, 0.5])
def test_votes_count_at_any_temperature(rng, temperature):
    """Queries whose neighbours are far, with cosines of about a half, against the votes in float64."""
    # Fails at small temperatures when votes are relative to a cosine of 1: all are 0 in float32, and class 0 wins.
    centers = torch.randn(6, 64, generator=rng)
    labels = torch.arange(300) % 6
    bank, queries = (
        Features(centers[y] + 1.1 * torch.randn(len(y), 64, generator=rng), y) for y in (labels, labels[:120])
    )
    expected = plain_knn(bank, queries, 20, "cosine", lambda cosine: math.exp(cosine / temperature))
    assert KNN(temperature=temperature).score(bank, queries)["knn_top1"] == expected > 0.9


def test_knn_in_chunks_and_labels_that_the_bank_lacks(monkeypatch):
    bank, queries = clouds(60, 4, 0.05, seed=0), clouds(50, 4, 0.05, seed=1)
    whole = KNN().score(bank, queries)
    monkeypatch.setattr(knn, "CHUNK", 7 * 60)
    assert KNN().score(bank, queries) == whole
    unknown = Features(queries.x, queries.labels + 4)
    assert KNN().score(bank, unknown) == {"knn_top1": 0.0, "knn1_top1": 0.0}


def test_small_temperatures_and_distances_do_not_overflow():
    bank = clouds(60, 4, 0.01, seed=0)
    for protocol in (KNN(k=1, temperature=1e-4), KNN(k=3, metric="euclidean")):
        assert protocol.score(bank, bank) == {"knn_top1": 1.0, "knn1_top1": 1.0}


def test_euclidean_distances_keep_small_differences():
    """Two points a ten-thousandth apart, far from the origin: a difference of squares in float32 would not see it."""
    x = torch.tensor([[1000.0, 0.0], [1000.0, 1e-4], [1000.0, 3e-4]])
    bank = Features(x[:2], torch.tensor([0, 1]))
    assert KNN(k=1, metric="euclidean").score(bank, Features(x[2:], torch.tensor([1])))["knn_top1"] == 1.0


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_features_are_those_of_evaluation_mode_and_leave_the_network_as_it_was(batch_size, rng):
    config = c.Encoder(width=4, projector=c.Head(hidden=8, out=4))
    parts = build_parts(config, 3, Shards(8, 1, range(1))).train()
    parts["block2"].eval()
    pixels = torch.randint(0, 256, (23, 8, 8, 3), dtype=torch.uint8, generator=rng)
    images = Images(pixels, torch.arange(2, 23), torch.arange(21) % 3)
    before = {name: tensor.clone() for name, tensor in parts.state_dict().items()}
    index = torch.tensor([20, 3, 4, 11])
    found = subject.encode(backbone_of(parts), images, torch.arange(21), batch_size, Group())
    some = subject.encode(backbone_of(parts), images, index, batch_size, Group())
    assert all(torch.equal(tensor, before[name]) for name, tensor in parts.state_dict().items())
    assert parts["block1"].training and not any(module.training for module in parts["block2"].modules())
    parts.eval()
    with torch.no_grad():
        expected = run_parts(backbone_of(parts), augment.standardise(pixels[2:].permute(0, 3, 1, 2) / 255))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(some, expected[index], rtol=1e-4, atol=1e-5)


def test_a_trial_may_be_scored_on_features_before_the_feature_norm(tiny, digits):
    config = tiny({"encoder.feature_norm": "pooled", "evaluation.before_feature_norm": True})
    learner = Learner(config, 1, 64, Group())
    with torch.no_grad():
        norm = learner.student.parts["block4"][-1]
        norm.running_mean += 1.0
        norm.running_var *= 4.0
    before = Subject(learner.student.parts, config, digits, digits, Group()).queries()
    assert torch.equal(before.labels, digits.labels)
    after = subject.encode(backbone_of(learner.student.parts), digits, torch.arange(64), 64, Group())
    torch.testing.assert_close((before.x - 1) / (4 + 1e-5) ** 0.5, after)


def test_top1_and_top5_against_a_sort(rng):
    logits, labels = torch.randn(50, 8, generator=rng), torch.randint(0, 7, (50,), generator=rng)
    order = [sorted(range(8), key=lambda i: -row[i]) for row in logits.tolist()]
    for name, best in (("some_top1", 1), ("some_top5", 5)):
        expected = sum(label in ranked[:best] for ranked, label in zip(order, labels.tolist(), strict=True)) / 50
        assert subject.hits("some", logits, labels)[name] == pytest.approx(expected)
    assert subject.hits("few", torch.eye(3), torch.arange(3)) == {"few_top1": 1.0, "few_top5": 1.0}


def test_protocols_learn_from_the_images_that_have_labels(tiny, digits, learner_of):
    config = tiny({"data.labels.per_class": 2})
    parts = learner_of(config).student.parts
    few, all_of_them = (Subject(parts, own, digits, digits, Group()) for own in (config, tiny()))
    assert torch.equal(few.labelled, data.labelled(digits, config.data.labels)) and len(few.labelled) == 20
    bank = few.bank()
    assert bank.labels.bincount().tolist() == [2] * 10 and torch.equal(bank.labels, digits.labels[few.labelled])
    torch.testing.assert_close(bank.x, all_of_them.bank().x[few.labelled])
    assert len(all_of_them.bank().x) == 64 and few.bank() is bank  # made once


def test_an_untrained_trial_is_judged_alike_by_any_number_of_workers(tiny, digits, together):
    """By every protocol: 3 workers share the work, sometimes less than 3 pieces; the learner does not change."""
    names = [name for name in PROTOCOLS if name not in ("classifier", "online")]
    small = {
        "evaluation.batch_size": 5,
        "evaluation.linear": {"epochs": 2, "augment": True, "norm": "logits", "init": 0.01},
        "evaluation.finetune": {"epochs": 2, "batch_size": 16, "reestimate": True},
        "evaluation.label_free": {"images": 30, "views": 2},
    }
    config, scored, found = tiny(small), Images(digits.pixels, digits.rows[:6], digits.labels[:6]), []
    for workers in (1, 3):
        learners = [
            Learner(tiny(small | {"train.batch_size": 24}), 1, 64, Group(rank, workers)) for rank in range(workers)
        ]
        before = learners[0].state_dict()[0] if workers == 1 else {}
        before = {name: tensor.clone() for name, tensor in before.items()}

        def act(learner: Learner) -> dict[str, float]:
            return measure(Subject(learner.network("student"), config, digits, scored, learner.group), names)

        found += together([lambda learner=learner: act(learner) for learner in learners])
        if workers == 1:
            after = learners[0].state_dict()[0]
            assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
            assert all(module.training for module in learners[0].student.modules())
    assert all(scores == found[0] for scores in found[1:])
    assert set(found[0]) >= {metric for name in names for metric in PROTOCOLS[name].METRICS}
    assert all(math.isfinite(score) for score in found[0].values())


@pytest.mark.parametrize("name", PROTOCOLS)
def test_what_every_protocol_has(name):
    """By being a file in the folder: metrics, options with defaults, recipes that are valid, and a documentation."""
    kind = PROTOCOLS[name]
    assert (
        kind.METRICS
        and set(kind.METRICS.values()) <= {"max", "min"}
        and kind.__doc__
        and kind.__module__.endswith(f".{name}")
    )
    assert all(METRICS[metric] == name for metric in kind.METRICS)  # no other gives them
    for recipe, values in kind.RECIPES.items():
        made = kind(recipe=recipe)  # type: ignore[call-arg]
        assert made != kind() and f"{recipe.split('-')[0]}" in kind.__doc__
        assert kind.model_validate(made.model_dump(mode="json")) == made
        assert set(values) <= set(kind.model_fields)
    with pytest.raises(ValueError, match="extra"):
        kind(no_such_option=1)  # type: ignore[call-arg]


def test_the_classifier_protocol_scores_the_projectors_outputs(tiny, digits, learner_of):
    config = tiny({"encoder.projector": {"hidden": 8, "out": 10}})
    parts = learner_of(config).student.parts
    found = measure(Subject(parts, config, digits, digits, Group()), ["classifier"])
    parts.eval()
    with torch.no_grad():
        logits = run_parts(
            parts, augment.standardise(digits.batch(torch.arange(64), torch.device("cpu"), torch.float32))
        )
    assert found["classifier_top1"] == pytest.approx((logits.argmax(1) == digits.labels).float().mean().item())
    assert found["classifier_top1"] < found["classifier_top5"] < 1


class Classifying(BYOL):
    CLASSIFIES: ClassVar[bool] = True


@pytest.mark.parametrize("classifies", [False, True])
def test_corruptions_are_scored_by_the_frozen_probe_or_by_the_head(tiny, digits, learner_of, classifies):
    config = tiny({"encoder.projector": {"hidden": 8, "out": 10}, "evaluation.linear.epochs": 2})
    method = Classifying() if classifies else config.method
    scored = Images(digits.pixels, digits.rows[:12], digits.labels[:12])
    subject = Subject(
        learner_of(config).student.parts, config.model_copy(update={"method": method}), digits, scored, Group()
    )
    found = measure(subject, ["corruptions", "classifier" if classifies else "linear"])
    assert found["clean_top1"] == found["classifier_top1" if classifies else "linear_top1"] and found["clean_top1"] > 0
    cells = [score for name, score in found.items() if name.startswith("corruptions/") and name.count("/") == 2]
    assert len(cells) == 75 and found["corruptions/mean"] == pytest.approx(sum(cells) / 75) and len(set(cells)) > 1
    assert all(module.training for module in subject.parts.modules())


def test_a_method_that_does_not_classify_is_refused_and_one_that_does_is_not(tiny):
    config = tiny()
    assert "that of 'byol' does not" in str(Classifier().unfit(config))
    assert Classifier().unfit(config.model_copy(update={"method": Classifying()})) is None
