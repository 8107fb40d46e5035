"""How the teacher averages: momentum, Spatial Ensemble and EMAN, against the formulas in float64."""

import copy

import pytest
import torch
from torch import Tensor, nn

from trainables import config as c
from trainables.encoders import build_parts, run_parts
from trainables.norm import Shards, norms_of
from trainables.schedules import Length
from trainables.teacher import Teacher

TOTAL = Length(100, 10)
Numbers = dict[str, Tensor]


def student_parts(seed: int = 0) -> nn.ModuleDict:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        parts = build_parts(c.Encoder(width=4, projector=c.Head(hidden=8, out=4)), 1, Shards(4, 1, range(1))).double().train()
        disturb(parts, seed)
    return parts


def disturb(parts: nn.Module, seed: int) -> None:
    """Other weights and running statistics, as if the student had learned."""
    generator = torch.Generator().manual_seed(seed)
    for p in parts.parameters():
        p.data += 0.2 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    for b in parts.buffers():
        b += torch.rand(b.shape, generator=generator, dtype=b.dtype)


def teacher_of(parts: nn.ModuleDict, seed: int = 0, norm: str = "batch", placement: object = "whole", **smoothing: object) -> Teacher:
    """Of constant momentum `momentum`."""
    momentum = {"kind": "constant", "base": smoothing.pop("momentum", 0.9)}
    config = {"momentum": momentum, "smoothing": smoothing, "norm": {"kind": norm}, "placement": placement}
    return Teacher(c.Teacher.model_validate(config), parts, seed).train()


def parameters(module: nn.Module) -> Numbers:
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def buffers(module: nn.Module) -> Numbers:
    return {name: b.clone() for name, b in module.named_buffers()}


def same(a: Numbers, b: Numbers) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def parts() -> nn.ModuleDict:
    return student_parts()


def test_a_teacher_starts_as_an_exact_copy_of_its_own(parts):
    teacher = teacher_of(parts, kind="sts", p=0.7)
    assert same(parameters(teacher.parts), parameters(parts)) and same(buffers(teacher.parts), buffers(parts))
    assert not {t.data_ptr() for t in teacher.parts.state_dict().values()} & {t.data_ptr() for t in parts.state_dict().values()}


def test_invariant_01_momentum_0_copies(parts):
    teacher = teacher_of(parts, momentum=0.0)
    disturb(parts, 1)
    assert not same(parameters(teacher.parts), parameters(parts))
    teacher.update(0, TOTAL)
    assert same(parameters(teacher.parts), parameters(parts))


def test_invariant_02_momentum_1_freezes(parts):
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
    parts = parts.to(dtype)
    teacher = teacher_of(parts, momentum=momentum, norm="eman")
    before = teacher.parts.state_dict()
    before = {name: tensor.clone() for name, tensor in before.items()}
    teacher.update(0, TOTAL)
    for name, tensor in teacher.parts.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=torch.finfo(dtype).eps, atol=0)


def test_invariant_04_a_constant_student_is_approached_geometrically(parts):
    teacher = teacher_of(parts, momentum=0.9)
    for p in teacher.parts.parameters():
        p.zero_()
    target = parameters(parts)
    for count in range(1, 16):
        teacher.update(count, TOTAL)
        for name, p in teacher.parts.named_parameters():
            torch.testing.assert_close(p.data, target[name] * (1 - 0.9**count), rtol=1e-12, atol=1e-13)


def test_invariant_05_the_update_is_linear(parts):
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
    config = c.Teacher(momentum=c.Momentum(kind="cosine", base=0.9, final=1.0))
    teacher = Teacher(config, parts, seed=0)
    old = parameters(teacher.parts)
    disturb(parts, 1)
    teacher.update(25, TOTAL)
    beta = 1 - 0.1 * (1 + 2**-0.5) / 2
    assert teacher.momentum(25, TOTAL) == pytest.approx(beta, abs=1e-15)
    for name, p in teacher.parts.named_parameters():
        torch.testing.assert_close(p.data, beta * old[name] + (1 - beta) * parameters(parts)[name], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_invariant_30_and_32_p_0_is_plain_averaging(parts, momentum):
    plain, ensemble = teacher_of(parts, momentum=momentum), teacher_of(parts, kind="sts", p=0.0, momentum=momentum)
    for step in range(3):
        disturb(parts, step)
        plain.update(step, TOTAL), ensemble.update(step, TOTAL)
        assert same(parameters(plain.parts), parameters(ensemble.parts))
        assert same(parameters(ensemble.parts), parameters(parts)) == (momentum == 0)


@pytest.mark.parametrize("kind", ["se", "sts"])
@pytest.mark.parametrize("norm", ["batch", "eman"])
def test_invariant_31_p_1_freezes(parts, kind, norm):
    teacher = teacher_of(parts, kind=kind, p=1.0, momentum=0.5, norm=norm)
    before = parameters(teacher.parts) | buffers(teacher.parts)
    for step in range(5):
        disturb(parts, step)
        teacher.update(step, TOTAL)
    assert same(parameters(teacher.parts) | buffers(teacher.parts), before)


@pytest.mark.parametrize(("kind", "kept_share"), [("se", 0.0), ("sts", 0.9)])
def test_invariant_33_each_tensor_is_old_or_averaged_as_a_whole(parts, kind, kept_share):
    teacher = teacher_of(parts, kind=kind, p=0.5, momentum=0.9)
    old = parameters(teacher.parts)
    disturb(parts, 1)
    new = parameters(parts)
    teacher.update(3, TOTAL)
    kept = []
    for name, p in teacher.parts.named_parameters():
        kept.append(torch.equal(p.data, old[name]))
        if not kept[-1]:
            torch.testing.assert_close(p.data, kept_share * old[name] + (1 - kept_share) * new[name], rtol=1e-12, atol=1e-13)
    assert 0 < sum(kept) < len(kept)


def updated(teacher: Teacher, parts: nn.ModuleDict, step: int) -> list[bool]:
    """Which tensors move at a step; the teacher is put back."""
    before = copy.deepcopy(teacher.parts.state_dict())
    teacher.update(step, TOTAL)
    moved = [not torch.equal(p.data, before[name]) for name, p in teacher.parts.named_parameters()]
    teacher.parts.load_state_dict(before)
    return moved


@pytest.mark.parametrize("p", [0.3, 0.7])
def test_invariant_34_a_share_of_1_minus_p_is_updated(parts, p):
    teacher = teacher_of(parts, kind="sts", p=p)
    disturb(parts, 1)
    moved = torch.tensor([updated(teacher, parts, step) for step in range(60)], dtype=torch.float64)
    tolerance = 4 * (p * (1 - p) / moved.numel()) ** 0.5
    assert abs(moved.mean().item() - (1 - p)) < tolerance
    assert (moved.mean(0) - (1 - p)).abs().max() < 4.5 * (p * (1 - p) / 60) ** 0.5  # every tensor in its turn


def test_invariant_35_the_mean_over_masks_is_averaging_with_an_effective_momentum(parts):
    p, beta, masks = 0.4, 0.9, 300
    teacher = teacher_of(parts, kind="sts", p=p, momentum=beta)
    own = list(teacher.parts.parameters())
    old = [tensor.clone() for tensor in own]
    disturb(parts, 1)
    total = [torch.zeros_like(tensor) for tensor in own]
    for step in range(masks):
        torch._foreach_copy_(own, old)
        teacher.update(step, TOTAL)
        torch._foreach_add_(total, own)
    effective = 1 - (1 - p) * (1 - beta)
    for then, now, tensor in zip(old, parts.parameters(), total, strict=True):
        apart = (tensor / masks - (effective * then + (1 - effective) * now.data)).abs()
        standard_error = (p * (1 - p) / masks) ** 0.5 * (1 - beta) * (now.data - then).abs()
        assert (apart <= 4.5 * standard_error + 1e-12).all()


def test_invariant_36_masks_leave_buffers_alone(parts):
    for norm in ("batch", "momentum"):
        teacher = teacher_of(parts, kind="sts", p=0.5, norm=norm)
        before = buffers(teacher.parts)
        disturb(parts, 1)
        teacher.update(0, TOTAL)
        assert same(buffers(teacher.parts), before)


def test_invariant_37_the_mask_is_a_function_of_seed_and_step(parts):
    first, again, other = (teacher_of(parts, seed=seed, kind="sts", p=0.5) for seed in (3, 3, 4))
    disturb(parts, 1)
    torch.manual_seed(0)
    masks = [updated(first, parts, step) for step in range(4)]
    torch.manual_seed(1)
    assert [updated(again, parts, step) for step in range(4)] == masks
    assert updated(again, parts, 2) == masks[2]  # whatever went before
    assert len({tuple(mask) for mask in masks}) == 4
    assert [updated(other, parts, step) for step in range(4)] != masks


def test_invariant_39_spatial_ensemble_never_mixes(parts):
    """Also with a momentum in the configuration, which "se" does not use."""
    teacher = teacher_of(parts, kind="se", p=0.6, momentum=0.9)
    past = [parameters(parts)]
    for step in range(6):
        disturb(parts, step)
        past.append(parameters(parts))
        teacher.update(step, TOTAL)
    found = parameters(teacher.parts)
    origins = [[torch.equal(found[name], student[name]) for student in past].index(True) for name in found]
    assert len(set(origins)) > 3
    assert teacher.momentum(0, TOTAL) == 0.0


def test_invariant_26_eman_averages_the_students_running_statistics(parts):
    beta, p = 0.9, 0.5
    for smoothing, keep in (({"kind": "tma"}, beta), ({"kind": "sts", "p": p}, 1 - (1 - p) * (1 - beta)), ({"kind": "se", "p": p}, p)):
        teacher = teacher_of(parts, norm="eman", momentum=beta, **smoothing)
        old = buffers(teacher.parts)
        disturb(parts, 1)
        student = buffers(parts)
        teacher.update(0, TOTAL)
        for name, found in teacher.parts.named_buffers():
            torch.testing.assert_close(found, keep * old[name] + (1 - keep) * student[name], rtol=1e-12, atol=1e-13)
            assert not torch.equal(found, old[name])


def test_invariant_27_eman_with_momentum_0_is_the_student_in_evaluation(parts, rng):
    teacher = teacher_of(parts, norm="eman", momentum=0.0)
    disturb(parts, 1)
    teacher.update(0, TOTAL)
    x = torch.randn(3, 1, 8, 8, generator=rng, dtype=torch.float64)
    parts.eval()
    assert torch.equal(teacher(x), run_parts(parts, x))


def test_invariant_25_an_eman_teacher_sees_samples_one_by_one(parts, rng):
    x, other = (torch.randn(4, 1, 8, 8, generator=rng, dtype=torch.float64) for _ in range(2))
    other[1] = x[1]
    eman, plain = teacher_of(parts, norm="eman"), teacher_of(parts, norm="batch")
    torch.testing.assert_close(eman(x)[1], eman(other)[1], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(plain(x)[1], plain(other)[1], rtol=1e-3)


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
