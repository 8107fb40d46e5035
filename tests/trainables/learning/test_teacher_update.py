"""How the teacher averages: momentum, Spatial Ensemble and EMAN, against the formulas in float64."""

import pytest
import torch
from torch import nn

from tests.trainables.feeds import feed_of
from tests.trainables.teachers import LAYOUT, TOTAL, buffers, disturb, parameters, same, student_parts, teacher_of
from trainables.config import trial as c
from trainables.config.teacher import Momentum
from trainables.learning.teacher import Teacher
from trainables.networks.encoders import run_parts
from trainables.networks.norms.base import norms_of


@pytest.fixture
def parts() -> nn.ModuleDict:
    return student_parts()


def test_a_teacher_starts_as_an_exact_copy_of_its_own(parts):
    teacher = teacher_of(parts, kind="sts", p=0.7)
    assert same(parameters(teacher.parts), parameters(parts)) and same(buffers(teacher.parts), buffers(parts))
    assert not {t.data_ptr() for t in teacher.parts.state_dict().values()} & {
        t.data_ptr() for t in parts.state_dict().values()
    }


def test_invariant_01_momentum_0_copies(parts):
    """Fails when the student's share is halved."""
    teacher = teacher_of(parts, momentum=0.0)
    disturb(parts, 1)
    assert not same(parameters(teacher.parts), parameters(parts))
    teacher.update(0, TOTAL)
    assert same(parameters(teacher.parts), parameters(parts))


def test_invariant_02_momentum_1_freezes(parts):
    """Fails when the student's share is at least 0.001."""
    teacher = teacher_of(parts, momentum=1.0)
    before = parameters(teacher.parts)
    for step in range(5):
        disturb(parts, step)
        teacher.update(step, TOTAL)
    assert same(parameters(teacher.parts), before)


@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.5, 0.996, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_invariant_03_and_07_an_equal_student_changes_nothing(parts, momentum, dtype):
    """So the update before the very first step does nothing."""
    # Fails when shares sum to 1.001.
    parts = parts.to(dtype)
    teacher = teacher_of(parts, momentum=momentum, norm="eman")
    before = teacher.parts.state_dict()
    before = {name: tensor.clone() for name, tensor in before.items()}
    teacher.update(0, TOTAL)
    for name, tensor in teacher.parts.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=torch.finfo(dtype).eps, atol=0)


def test_invariant_04_a_constant_student_is_approached_geometrically(parts):
    """Fails when the share shrinks with the step, as in a running mean."""
    teacher = teacher_of(parts, momentum=0.9)
    for p in teacher.parts.parameters():
        p.zero_()
    target = parameters(parts)
    for count in range(1, 16):
        teacher.update(count, TOTAL)
        for name, p in teacher.parts.named_parameters():
            torch.testing.assert_close(p.data, target[name] * (1 - 0.9**count), rtol=1e-12, atol=1e-13)


def test_invariant_05_the_update_is_linear(parts):
    """Fails when the student's absolute values are averaged."""
    students = [student_parts(1), student_parts(2), student_parts(3)]
    for p, first, second in zip(*(s.parameters() for s in (students[2], students[0], students[1])), strict=True):
        p.data = 2.5 * first.data - 0.75 * second.data
    teachers = [teacher_of(student, momentum=0.7) for student in students]
    for teacher in teachers:
        for p in teacher.parts.parameters():
            p.zero_()
        for step in range(3):
            teacher.update(step, TOTAL)
    first, second, both = (parameters(teacher.parts) for teacher in teachers)
    for name in both:
        torch.testing.assert_close(both[name], 2.5 * first[name] - 0.75 * second[name], rtol=1e-12, atol=1e-13)


def test_an_update_follows_the_momentum_schedule(parts):
    config = c.Teacher(momentum=Momentum(kind="cosine", base=0.9, final=1.0))
    teacher = Teacher(config, parts, seed=0)
    old = parameters(teacher.parts)
    disturb(parts, 1)
    teacher.update(25, TOTAL)
    beta = 1 - 0.1 * (1 + 2**-0.5) / 2
    assert teacher.momentum(25, TOTAL) == pytest.approx(beta, abs=1e-15)
    for name, p in teacher.parts.named_parameters():
        torch.testing.assert_close(
            p.data, beta * old[name] + (1 - beta) * parameters(parts)[name], rtol=1e-12, atol=1e-13
        )


def test_each_part_follows_the_momentum_schedule_of_its_own(parts):
    """Named by itself or by its group; the others follow `teacher.momentum`."""
    momenta = {"conv1": {"kind": "constant", "base": 0.5}, "projector": {"kind": "linear", "base": 0.8}, "block4": 0.6}
    teacher = teacher_of(parts, momentum=0.9, momenta=momenta)
    old = parameters(teacher.parts)
    disturb(parts, 1)
    teacher.update(25, TOTAL)
    betas = {"conv1": 0.5, "fc1": 0.85, "fc2": 0.85, "block4": 0.6}
    for name, p in teacher.parts.named_parameters():
        part = name.split(".")[0]
        beta = betas.get(part, 0.9)
        assert teacher.momentum(25, TOTAL, part) == pytest.approx(beta, abs=1e-15)
        torch.testing.assert_close(
            p.data, beta * old[name] + (1 - beta) * parameters(parts)[name], rtol=1e-12, atol=1e-13
        )
    assert teacher.momentum(25, TOTAL) == 0.9


@pytest.mark.parametrize(
    "smoothing", [{}, {"kind": "sts", "p": 0.5}, {"kind": "sts", "p": 0.5, "granularity": "neuron"}]
)
def test_invariant_43_equal_momenta_of_all_parts_are_one_global_momentum(parts, smoothing):
    """Fails when momenta of parts are not looked at."""
    momenta = {part: {"kind": "constant", "base": 0.7} for part in c.PARTS}
    single, each = (
        teacher_of(parts, momentum=0.7, **smoothing),
        teacher_of(parts, momentum=0.2, momenta=momenta, **smoothing),
    )
    for step in range(3):
        disturb(parts, step)
        single.update(step, TOTAL), each.update(step, TOTAL)
    assert same(parameters(single.parts), parameters(each.parts))


def test_masks_and_momenta_of_parts_go_together(parts):
    teacher = teacher_of(parts, momentum=0.9, momenta={"block4": 0.3}, kind="sts", p=0.5, granularity="channel")
    old = parameters(teacher.parts)
    disturb(parts, 1)
    teacher.update(0, TOTAL)
    for name, p in teacher.parts.named_parameters():
        beta = 0.3 if name.startswith("block4") else 0.9
        average = beta * old[name] + (1 - beta) * parameters(parts)[name]
        torch.testing.assert_close(p.detach(), torch.where(p == old[name], old[name], average), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("update", ["before", "after"])
def test_invariant_07_the_first_update_does_nothing_before_the_forward_and_something_after_the_step(
    tiny, digits, learner_of, update
):
    """Before: the initial student enters.

    After: what the optimiser made of it, at the momentum of the step just done.
    """
    # Fails when the early update is made for "after" instead of "before".
    learner = learner_of(tiny({"teacher.update": update, "train.precision": "fp64"}))
    students = [parameters(learner.student.parts)]
    expected = students[0]
    for step in range(3):
        learner.step(feed_of(learner, digits).batches(torch.arange(64), step, 0))
        students.append(parameters(learner.student.parts))
        beta, enters = learner.teacher.momentum(step, learner.run), students[step if update == "before" else step + 1]
        expected = {name: beta * tensor + (1 - beta) * enters[name] for name, tensor in expected.items()}
        for name, p in learner.teacher.parts.named_parameters():
            torch.testing.assert_close(p.data, expected[name], rtol=1e-12, atol=1e-14)
            assert step > 0 or torch.equal(p, students[0][name]) == (update == "before")


@pytest.mark.parametrize("update", ["before", "after"])
def test_emans_statistics_enter_with_the_weights(tiny, digits, learner_of, update):
    """As EMAN's preset for MoCo says: before the forward neither they nor the weights have seen the current batch."""
    learner = learner_of(tiny({"teacher.update": update, "teacher.norm.kind": "eman", "train.precision": "fp64"}))
    students, expected = [buffers(learner.student.parts)], buffers(learner.teacher.parts)
    for step in range(3):
        learner.step(feed_of(learner, digits).batches(torch.arange(64), step, 0))
        students.append(buffers(learner.student.parts))
        beta, enters = learner.teacher.momentum(step, learner.run), students[step if update == "before" else step + 1]
        expected = {name: beta * tensor + (1 - beta) * enters[name] for name, tensor in expected.items()}
        for name, found in learner.teacher.parts.named_buffers():
            torch.testing.assert_close(found, expected[name], rtol=1e-11, atol=1e-13)
            assert not torch.equal(students[step][name], students[step + 1][name])


@pytest.mark.parametrize("granularity", ["layer", "channel", "neuron"])
def test_invariant_26_eman_averages_the_students_running_statistics(parts, granularity):
    """Fails when p is left out of the share."""
    beta, p = 0.9, 0.5
    masked = {"p": p, "granularity": granularity}
    for smoothing, keep in (
        ({}, beta),
        ({"kind": "sts", **masked}, 1 - (1 - p) * (1 - beta)),
        ({"kind": "se", **masked}, p),
    ):
        teacher = teacher_of(parts, norm="eman", momentum=beta, **smoothing)
        old = buffers(teacher.parts)
        disturb(parts, 1)
        student = buffers(parts)
        teacher.update(0, TOTAL)
        for name, found in teacher.parts.named_buffers():
            torch.testing.assert_close(found, keep * old[name] + (1 - keep) * student[name], rtol=1e-12, atol=1e-13)
            assert not torch.equal(found, old[name])


def test_invariant_26_statistics_follow_the_momentum_of_their_part_and_shared_parts_have_the_students(parts):
    """Fails when all parts move with the largest share."""
    teacher = teacher_of(parts, norm="eman", momentum=0.9, momenta={"block2": 0.6}, placement=["block1", "block2"])
    old = buffers(teacher.parts)
    disturb(parts, 1)
    student = buffers(parts)
    teacher.update(0, TOTAL)
    keeps = {"block1": 0.9, "block2": 0.6}
    assert list(teacher.parts) == ["block1", "block2", "block3", "block4", "fc1", "fc2"]
    for name, found in teacher.parts.named_buffers():
        keep = keeps.get(name.split(".")[0], 0.0)
        torch.testing.assert_close(found, keep * old[name] + (1 - keep) * student[name], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("duration", "steps"), [("2 steps", 2), ("0.3 epochs", 3), ("4 %", 4)])
def test_eman_follows_the_student_during_its_warm_start(parts, duration, steps):
    teacher = teacher_of(parts, norm={"kind": "eman", "warm_start": duration}, momentum=0.9, kind="sts", p=0.5)
    for step in range(steps + 2):
        old = buffers(teacher.parts)
        disturb(parts, step)
        student, keep = buffers(parts), 0.0 if step < steps else 0.95
        teacher.update(step, TOTAL)
        for name, found in teacher.parts.named_buffers():
            torch.testing.assert_close(found, keep * old[name] + (1 - keep) * student[name], rtol=1e-12, atol=1e-13)


def test_invariant_27_eman_with_momentum_0_is_the_student_in_evaluation(parts, rng):
    """Fails when variances are not averaged."""
    teacher = teacher_of(parts, norm="eman", momentum=0.0)
    disturb(parts, 1)
    teacher.update(0, TOTAL)
    x = torch.randn(3, 1, 8, 8, generator=rng, dtype=torch.float64)
    parts.eval()
    assert torch.equal(teacher(x, LAYOUT), run_parts(parts, x)) and (teacher(x, LAYOUT).std(0) > 0.01).all()


def test_invariant_25_an_eman_teacher_sees_samples_one_by_one(parts, rng):
    """Fails when EMAN is plain batch norm."""
    x, other = (torch.randn(4, 1, 8, 8, generator=rng, dtype=torch.float64) for _ in range(2))
    other[1] = x[1]
    eman, plain = teacher_of(parts, norm="eman"), teacher_of(parts, norm="batch")
    torch.testing.assert_close(eman(x, LAYOUT)[1], eman(other, LAYOUT)[1], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(eman(x, LAYOUT)[0], eman(other, LAYOUT)[0], rtol=1e-3)
    assert not torch.allclose(plain(x, LAYOUT)[1], plain(other, LAYOUT)[1], rtol=1e-3)


@pytest.mark.parametrize("norm", ["batch", "momentum"])
def test_an_update_does_not_touch_other_norms_statistics(parts, norm):
    teacher = teacher_of(parts, norm=norm)
    before = buffers(teacher.parts)
    disturb(parts, 1)
    teacher.update(0, TOTAL)
    assert same(buffers(teacher.parts), before) and len(norms_of(teacher)) == len(norms_of(parts))


def test_distance_is_relative_to_the_student(parts):
    teacher = teacher_of(parts)
    assert teacher.distance() == 0.0
    disturb(parts, 1)
    own, student = (torch.cat([p.flatten() for p in parameters(module).values()]) for module in (teacher.parts, parts))
    assert teacher.distance() == pytest.approx(((own - student).norm() / student.norm()).item(), rel=1e-12)
