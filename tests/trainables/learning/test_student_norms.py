"""The student's norms in a Learner: its steps, the number of its workers, and every combination with a teacher."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.trainables.feeds import feed_of
from trainables.config import schedules
from trainables.config import trial as c
from trainables.config.errors import UserError
from trainables.config.norms import STUDENT_NORMS, TEACHER_NORMS, says
from trainables.data import augment
from trainables.data import images as data
from trainables.learning.learner import Learner
from trainables.networks.group import Group
from trainables.networks.norms.base import norms_of
from trainables.networks.norms.momentum import MomentumNorm
from trainables.running.resolve import resolved

MOMENTUM: dict[str, Any] = {"kind": "momentum", "alpha": {"kind": "linear", "base": 0.9, "final": 0.1}}
OF_SAMPLES = [kind for kind in STUDENT_NORMS if not says(kind, "BATCH_STATISTICS", True)]


def steps(learner: Learner, digits: data.Images, first: int, last: int) -> None:
    for step in range(first, last):
        order = torch.arange(64).roll(step)
        learner.step(feed_of(learner, digits, digits).batches(order, step % learner.run.per_epoch, 0))


@pytest.mark.parametrize("lazy", [True, False])
def test_momentum_bn_of_a_student_step_by_step(tiny, digits, learner_of, lazy):
    """Of the first layer: two views of each shard move its history at the end of a step, by the schedule's alpha."""
    # Fails when alpha is the teacher's, or each view is committed by itself though it is lazy.
    values = {"train.precision": "fp64", "encoder.norm": {**MOMENTUM, "lazy": lazy}, "teacher.norm.alpha": 0.3}
    learner = learner_of(tiny(values))
    conv, norm = (learner.student.parts["conv1"][index] for index in (0, 1))
    assert {type(one) for one in learner.student.norms} == {MomentumNorm}
    assert learner.student.predictor is not None and norms_of(learner.student.predictor)
    for step in range(3):
        alpha = schedules.at(learner.config.encoder.norm.alpha, step, learner.run)
        samples = torch.arange(64).roll(step)[16 * step : 16 * step + 16]
        images = digits.batch(samples, torch.device("cpu"), torch.float64)
        with torch.no_grad():
            views = [conv(view) for view in augment.views(images, samples, ("full",) * 2, learner.config.views, 0, 0)]
        expected = norm.history.clone()
        for shard in range(2):
            maps = [view[8 * shard : 8 * shard + 8].transpose(0, 1).flatten(1) for view in views]
            each = [torch.stack([one.mean(1), one.var(1, correction=0)]) for one in maps]
            for target in [torch.stack(each).mean(0)] if lazy else each:
                expected[shard] = (1 - alpha) * expected[shard] + alpha * target
        steps(learner, digits, step, step + 1)
        assert norm.pending == []
        torch.testing.assert_close(norm.history, expected, rtol=1e-10, atol=1e-12)
    assert learner.teacher.alpha(2, learner.run) == 0.3
    assert [name for name in learner.close_epoch() if "alpha" in name] == ["alpha", "student_alpha"]


def test_alpha_1_trains_as_batch_norm_does(tiny, digits, learner_of):
    """Over steps in float64; only what an evaluation uses differs."""
    weights = []
    for norm in ("batch", {"kind": "momentum", "alpha": 1.0}):
        learner = learner_of(tiny({"train.precision": "fp64", "encoder.norm": norm}))
        steps(learner, digits, 0, 3)
        weights.append(dict(learner.student.named_parameters()))
    torch.testing.assert_close(*weights, rtol=1e-8, atol=1e-10)


def test_the_other_alphas_train_in_another_way(tiny, digits, learner_of):
    """And so does the control, and another number of groups."""
    losses = []
    for norm in (
        {"kind": "momentum", "alpha": 1.0},
        {"kind": "momentum", "alpha": 0.5},
        {"kind": "momentum", "alpha": 0.5, "lazy": False},
        {"kind": "group", "groups": 2},
        {"kind": "group", "groups": 1},
        "none",
    ):
        learner = learner_of(tiny({"train.precision": "fp64", "encoder.norm": norm}))
        steps(learner, digits, 0, 2)
        losses.append(learner.loss_sum.item())
    assert len({round(loss, 6) for loss in losses}) == 6


def test_views_that_the_student_does_not_learn_from_do_not_move_its_history(tiny, digits, learner_of):
    """MoCo's teacher sees the other view, through a prefix of the student."""
    values = {"method.name": "moco", "method.queue": 32, "teacher.placement": "projector"}
    norm = {"kind": "momentum", "alpha": 0.5}
    learner = learner_of(tiny({**values, "train.precision": "fp64", "encoder.norm": norm}))
    samples = torch.arange(16)
    images = digits.batch(samples, torch.device("cpu"), torch.float64)
    (learnt, _) = augment.views(images, samples, ("full", "full"), learner.config.views, 0, 0)
    conv, norm = (learner.student.parts["conv1"][index] for index in (0, 1))
    with torch.no_grad():
        maps = [conv(shard).transpose(0, 1).flatten(1) for shard in learnt.split(8)]
    expected = torch.stack(
        [
            (one + torch.stack([x.mean(1), x.var(1, correction=0)])) / 2
            for one, x in zip(norm.history, maps, strict=True)
        ]
    )
    steps(learner, digits, 0, 1)
    torch.testing.assert_close(norm.history, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("lazy", [True, False])
@pytest.mark.parametrize("teacher", ["batch", "momentum", "eman"])
def test_law_1_momentum_bn_of_a_student_on_1_2_and_4_workers(tiny, digits, together, teacher, lazy):
    """To the last bit: losses, weights, and all histories, of which each worker trains its own; uneven shards too."""
    # Fails when the student's history is not gathered: for a checkpoint, an evaluation, or a teacher that follows it.
    norm = {"kind": "momentum", "alpha": 0.4, "lazy": lazy}
    config = tiny({"train.batch_size": 20, "train.shard_size": 4, "encoder.norm": norm, "teacher.norm.kind": teacher})
    states = []
    for workers in (1, 2, 4):
        learners = [Learner(config, 1, 64, Group(rank, workers)) for rank in range(workers)]

        def act(learner: Learner) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
            steps(learner, digits, 0, 2)
            saved = {name: tensor.clone() for name, tensor in learner.state_dict()[0].items()}
            steps(learner, digits, 2, 3)
            return learner.network("student").state_dict(), saved

        states += together([lambda learner=learner: act(learner) for learner in learners])
    for found in states:
        for ours, first in zip(found, states[0], strict=True):
            assert ours.keys() == first.keys()
            assert [name for name, tensor in ours.items() if not torch.equal(tensor, first[name])] == []
    histories = [tensor for name, tensor in states[0][1].items() if name.endswith("history")]
    assert all(not torch.equal(history[0], history[4]) for history in histories)


def test_a_shared_history_of_a_student_on_1_and_2_workers(tiny, digits, together):
    norm = {"kind": "momentum", "alpha": 0.4, "history": "shared", "variance": "unbiased"}
    config = tiny({"train.precision": "fp64", "train.batch_size": 12, "train.shard_size": 4, "encoder.norm": norm})
    states = []
    for workers in (1, 2):
        learners = [Learner(config, 1, 64, Group(rank, workers)) for rank in range(workers)]

        def act(learner: Learner) -> dict[str, Tensor]:
            steps(learner, digits, 0, 3)
            return learner.state_dict()[0]

        states += together([lambda learner=learner: act(learner) for learner in learners])
    for state in states[1:]:
        torch.testing.assert_close(state, states[0], rtol=1e-9, atol=1e-12)
    history = states[0]["student.parts.conv1.1.history"]
    assert torch.equal(history[0], history[2])


def test_eman_averages_what_evaluations_of_a_momentum_student_use(tiny, digits, learner_of):
    """REFERENCE, B: of the mean of all histories, with the teacher's momentum."""
    learner = learner_of(tiny({"encoder.norm": "momentum", "teacher.norm.kind": "eman", "teacher.momentum": 0.75}))
    steps(learner, digits, 0, 1)
    teacher, student = learner.teacher.parts["conv1"][1], learner.student.parts["conv1"][1]
    before, (mean, var) = (teacher.running_mean.clone(), teacher.running_var.clone()), student.history.mean(0)
    learner.teacher.update(1, learner.run)
    torch.testing.assert_close(teacher.running_mean, 0.75 * before[0] + 0.25 * mean)
    torch.testing.assert_close(teacher.running_var, 0.75 * before[1] + 0.25 * var)


SMALL: dict[str, Any] = {
    "encoder.width": 2,
    "train.batch_size": 8,
    "train.shard_size": 4,
    "encoder.projector": {"hidden": 16, "out": 16},
    "optim.lr": 0.01,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "byol": {"method.predictor_hidden": 16},
    "simsiam": {"method.predictor_hidden": 16, "teacher.placement": "none"},
    "simclr": {"teacher.placement": "none"},
    "moco": {"method.queue": 16},
    "ressl": {"method.queue": 16},
    "dino": {"encoder.projector.prototypes": 16, "method.local_views": 1},
    "fixmatch": {"method.images_per_label": 2, "method.pseudo_labels": "teacher"},
    "mean_teacher": {"method.images_per_label": 2},
}


@pytest.mark.parametrize("method", sorted(c.METHODS))
def test_every_norm_of_a_student_with_every_norm_of_a_teacher(tiny, learner_of, digits, method):
    """In every method: a step with finite numbers, or a refusal, where the student's norm or the placement leaves no
    choice."""
    alone = OPTIONS[method].get("teacher.placement") == "none"
    for student, teacher in itertools.product(STUDENT_NORMS, TEACHER_NORMS):
        norms = {"encoder.norm": student, "teacher.norm.kind": teacher}
        values = {**SMALL, "method.name": method, **OPTIONS[method], **norms}
        if teacher != "batch" and (alone or student in OF_SAMPLES):
            with pytest.raises(UserError, match=rf"^teacher\.norm\.kind = {teacher}: "):
                tiny(values)
            continue
        learner = learner_of(tiny(values))
        steps(learner, digits, 0, 1)
        assert learner.step_index == 1 and learner.loss_sum.isfinite(), norms
        assert all(p.isfinite().all() for p in learner.student.parameters()), norms


def test_fixmatch_with_its_own_pseudo_labels_takes_a_student_without_batch_statistics(tiny, learner_of, digits):
    """Its teacher sees no training image, and needs none."""
    own = {**SMALL, "method.name": "fixmatch", "method.images_per_label": 2, "teacher.norm.kind": "batch"}
    learner = learner_of(tiny({**own, "encoder.norm": "group"}))
    steps(learner, digits, 0, 1)
    assert learner.loss_sum.isfinite()
    with pytest.raises(UserError, match="only eman gives it statistics"):
        tiny({**own, "encoder.norm": "momentum"})


@pytest.mark.parametrize("kind", STUDENT_NORMS)
def test_a_resolved_trial_says_the_same_again(tiny, kind):
    config = resolved(tiny({"encoder.norm": kind}), 10)
    assert config.encoder.norm.kind == kind and c.parse(config.plain()) == config
