"""FixMatch and Mean Teacher against the plainly written formulas, in float64; their stream of labelled images."""

import math

import pytest
import torch
from torch import Tensor

from tests.trainables.passes import given
from trainables.config import schedules
from trainables.config import trial as c
from trainables.config.durations import Length
from trainables.config.errors import UserError
from trainables.data import images as data
from trainables.learning.methods.base import Pass
from trainables.learning.methods.fixmatch import FixMatch
from trainables.learning.methods.mean_teacher import MeanTeacher
from trainables.learning.methods.ressl import ReSSL

SHARDS, LABELLED, IMAGES, CLASSES = 2, 2, 6, 4


def logits(rng: torch.Generator, *counts: int) -> Tensor:
    """Of two shards, each with so many pictures of each kind: [1, shards * pictures, classes]."""
    return 2 * torch.randn(1, SHARDS * sum(counts), CLASSES, generator=rng, dtype=torch.float64)


def labelled_pass(rng: torch.Generator, own: Tensor, targets: Tensor) -> Pass:
    labels = torch.randint(CLASSES, (SHARDS * LABELLED,), generator=rng)
    return given(own, targets, shards=SHARDS, labels=labels)


def log_p(row: Tensor, label: int) -> float:
    return (row[label] - row.exp().sum().log()).item()


def plain_fixmatch(method: FixMatch, seen: Pass, weak: list[Tensor], strong: list[Tensor]) -> list[float]:
    """Of each shard, from the rows of its weak and strong pictures."""
    losses = []
    for shard in range(SHARDS):
        own = seen.predictions[0].chunk(SHARDS)[shard]
        labels = seen.labels.chunk(SHARDS)[shard].tolist()
        supervised = sum(-log_p(own[i], label) for i, label in enumerate(labels)) / LABELLED
        total = 0.0
        for w, s in zip(weak[shard], strong[shard], strict=True):
            sure, pseudo = w.softmax(0).max(0)
            total += -log_p(s, int(pseudo)) if sure >= method.threshold else 0.0
        losses.append(supervised + method.weight * total / IMAGES)
    return losses


@pytest.mark.parametrize("source", ["student", "teacher"])
def test_fixmatch_against_plain_loops(rng, source):
    method = FixMatch(threshold=0.6, weight=3.0, pseudo_labels=source)
    if source == "student":
        own = logits(rng, LABELLED, IMAGES, IMAGES)
        seen = labelled_pass(rng, own, own[:0])
        parts = [shard.split([LABELLED, IMAGES, IMAGES]) for shard in own[0].chunk(SHARDS)]
        weak, strong = [p[1] for p in parts], [p[2] for p in parts]
    else:
        own, targets = logits(rng, LABELLED, IMAGES), logits(rng, IMAGES)
        seen = labelled_pass(rng, own, targets)
        weak, strong = list(targets[0].chunk(SHARDS)), [shard[LABELLED:] for shard in own[0].chunk(SHARDS)]
    sure = torch.cat(weak).softmax(-1).amax(-1)
    assert 0 < (sure >= 0.6).sum() < len(sure)  # both kinds are there
    torch.testing.assert_close(
        method.loss(seen), torch.tensor(plain_fixmatch(method, seen, weak, strong), dtype=torch.float64)
    )


def test_invariant_55_threshold_and_pseudo_labels(rng):
    """Fails when the mean is over sure images alone, or weak and strong views change places."""
    own = logits(rng, LABELLED, IMAGES, IMAGES)
    seen = labelled_pass(rng, own, own[:0])
    supervised = FixMatch(weight=0.0).loss(seen)
    assert torch.equal(FixMatch(threshold=1.01).loss(seen), supervised)
    labelled, weak, _ = own[0].unflatten(0, (SHARDS, -1)).split([LABELLED, IMAGES, IMAGES], dim=1)
    same = torch.cat([labelled, weak, weak], dim=1).flatten(0, 1)[None].requires_grad_()
    found = FixMatch(threshold=0.0).loss(seen._replace(predictions=same)) - supervised
    expected = [sum(-log_p(row, int(row.argmax())) for row in rows) / IMAGES for rows in weak]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(found.sum(), same)
    _, to_weak, to_strong = gradient[0].unflatten(0, (SHARDS, -1)).split([LABELLED, IMAGES, IMAGES], dim=1)
    assert to_weak.abs().max() == 0 and to_strong.abs().max() > 0


def test_who_sees_what():
    """Labels are learnt in weak views; pseudo-labels come from weak views and are learnt in strong ones."""
    by_student, by_teacher = FixMatch(), FixMatch(pseudo_labels="teacher")
    assert by_student.views == ("weak", "strong") and by_student.LABELLED_VIEWS == ("weak",)
    labelled, weak, strong = ("labelled", 0), ("images", 0), ("images", 1)
    assert by_student.student_sights == ((labelled, weak, strong),) and by_student.teacher_sights == ()
    assert by_teacher.student_sights == ((labelled, strong),) and by_teacher.teacher_sights == ((weak,),)
    ressl = ReSSL()
    assert ressl.views == ("full", "weak") and (ressl.student_sights, ressl.teacher_sights) == (
        ((weak,),),
        ((strong,),),
    )
    mean_teacher = MeanTeacher()
    assert mean_teacher.student_sights == ((labelled, weak),) and mean_teacher.teacher_sights == (
        (("labelled", 1), strong),
    )


def test_mean_teacher_against_plain_loops(rng):
    method = MeanTeacher(consistency=7.0, rampup="50 steps")
    own, targets = logits(rng, LABELLED, IMAGES), logits(rng, LABELLED, IMAGES)
    seen = labelled_pass(rng, own, targets)._replace(step=20)
    count, expected = LABELLED + IMAGES, []
    for shard in range(SHARDS):
        student, teacher = (x[0].chunk(SHARDS)[shard] for x in (own, targets))
        supervised = (
            sum(-log_p(student[i], int(label)) for i, label in enumerate(seen.labels.chunk(SHARDS)[shard])) / count
        )
        apart = sum(((s.softmax(0) - t.softmax(0)) ** 2).sum().item() for s, t in zip(student, teacher, strict=True))
        expected.append(supervised + 7 * math.exp(-5 * (1 - 20 / 50) ** 2) * apart / (CLASSES * count))
    torch.testing.assert_close(method.loss(seen), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("base", [0.999, 0.3])
def test_invariant_56_the_first_teachers_are_plain_means(base):
    """Fails when steps are counted from 0, which would make the first keep-rate 0."""
    momentum = c.parse(
        {"method": {"name": "mean_teacher", "images_per_label": 1}, "teacher": {"momentum": {"base": base}}}
    ).teacher.momentum
    found = [schedules.at(momentum, step, Length(100, 10)) for step in range(4)]
    assert found == pytest.approx([min(1 - 1 / (count + 1), base) for count in (1, 2, 3, 4)])
    assert found[0] == min(1 / 2, base)


def test_a_stream_visits_every_index_once_a_round():
    chosen, rounds = data.cycled(5, range(15), 7, "labelled")
    assert rounds.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    orders = [part.tolist() for part in chosen.split(5)]
    assert all(sorted(order) == [0, 1, 2, 3, 4] for order in orders) and orders[0] != orders[1]
    some, _ = data.cycled(5, range(4, 9), 7, "labelled")
    assert torch.equal(some, chosen[4:9])  # wherever one begins


def test_what_a_labelled_method_cannot_do_is_refused():
    shards = {"train": {"batch_size": 64, "shard_size": 32}}
    for values, said in (
        (
            {"method": {"name": "fixmatch"}, **shards},
            "method.images_per_label = 7: must divide train.shard_size = 32.*; 8 does$",
        ),
        (
            {"method": {"name": "mean_teacher"}, **shards},
            "method.images_per_label = 3: must divide train.shard_size = 32.*; [24] does$",
        ),
        (
            {"method": {"name": "fixmatch", "images_per_label": 4}, "teacher": {"norm": {"kind": "momentum"}}},
            "teacher.norm.kind = momentum: with method.pseudo_labels = student the teacher sees no training image",
        ),
        (
            {"method": {"name": "fixmatch", "images_per_label": 4}, "encoder": {"projector": {"prototypes": 8}}},
            "encoder.projector.prototypes = 8: fixmatch compares classes",
        ),
        ({"optim": {"lr": {"kind": "running_mean"}}}, "optim.lr: running_mean is the schedule of a keep-rate"),
    ):
        with pytest.raises(UserError, match=f"^{said}"):
            c.parse(values)
