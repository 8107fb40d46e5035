"""EMA placement: which parts run again, which tensors are shared, and that nothing of the student is touched."""

import copy

import pytest
import torch
from torch import Tensor, nn

from tests.trainables.feeds import feed_of
from tests.trainables.layouts import through
from tests.trainables.passes import given
from trainables.config import trial as c
from trainables.config.durations import Length
from trainables.data.images import Images
from trainables.learning.learner import Learner
from trainables.learning.methods.byol import BYOL
from trainables.learning.teacher import Teacher
from trainables.networks.encoders import build_parts, mlp
from trainables.networks.group import Group
from trainables.networks.norms.base import Shards, begin, commit, norms_of
from trainables.networks.norms.batch import BatchNorm
from trainables.networks.student import Student

SHARDS = Shards(4, 1, range(1))
RUN = Length(10, 5)
PLACEMENTS = [
    "whole",
    "backbone",
    "projector",
    "none",
    ["block2"],
    ["conv1", "projector"],
    ["fc1"],
    "fc2",
    ["block3", "fc2"],
]


def network(seed: int = 0) -> tuple[nn.ModuleDict, nn.Module]:
    """Parts and predictor in float64."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head = c.Head(hidden=8, out=4)
        parts = build_parts(c.Encoder(width=4, projector=head), 1, SHARDS).double().train()
        return parts, mlp(4, head, lambda width: BatchNorm(width, SHARDS)).double()


def teacher_of(parts: nn.ModuleDict, placement: object, momentum: float = 0.9, norm: str = "batch") -> Teacher:
    config = {"momentum": {"kind": "constant", "base": momentum}, "placement": placement, "norm": {"kind": norm}}
    return Teacher(c.Teacher.model_validate(config), parts, seed=0).train()


def disturb(parts: nn.Module, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in parts.parameters():
        p.data += 0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype)


def two_views(seed: int = 2) -> Tensor:
    return torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loss_of(prediction: Tensor, target: Tensor) -> Tensor:
    return BYOL().loss(given(prediction.unflatten(0, (2, -1)), target.unflatten(0, (2, -1)))).mean()


def learner_of(tiny, placement: object, digits: Images, **values: object) -> Learner:
    config = tiny({"teacher.placement": placement, **{key.replace("__", "."): value for key, value in values.items()}})
    return Learner(config, digits.channels, len(digits), Group())


def take_step(learner: Learner, digits: Images, at: int = 0) -> None:
    learner.step(feed_of(learner, digits).batches(torch.arange(len(digits)), at, 0))


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_invariant_40_reuse_equals_a_separate_forward_with_copied_weights(placement):
    """Averaged parts have weights of their own, others the student's: loss and gradients of a whole second network."""
    # Fails when the tap is a part too early, or shared parts are copies.
    parts, predictor = network()
    teacher = teacher_of(parts, placement)
    disturb(parts)
    second = copy.deepcopy(parts)
    for name in teacher.config.placement:
        second[name].load_state_dict(teacher.parts[name].state_dict())
    student, x = Student(parts, predictor, teacher.tap), two_views()
    output = student(x, SHARDS.layout())
    loss = loss_of(output.prediction, teacher(output.tapped, SHARDS.layout()))
    with torch.no_grad():
        target = through(second, x)
    expected = loss_of(through(predictor, through(parts, x)), target)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    grads = [torch.autograd.grad(value, list(student.parameters())) for value in (loss, expected)]
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-12)
    assert loss.item() > 0.1 and (placement == "none" or not torch.allclose(target, output.projection))


@pytest.mark.parametrize(
    ("placement", "forwards"), [("projector", 2), ("fc2", 2), ("none", 2), ("whole", 4), ("backbone", 4)]
)
@pytest.mark.parametrize("exact", [True, False])
def test_invariant_41_backbone_forwards_of_an_image(tiny, digits, placement, forwards, exact):
    """Fails when every part is run again."""
    learner = learner_of(tiny, placement, digits, train__exact=exact)
    seen = []
    encoder = learner.teacher.encoder(learner.student.parts)
    for part in {id(part): part for part in (learner.student.parts["block3"], encoder["block3"])}.values():
        part.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    take_step(learner, digits)
    assert sum(seen) == forwards * learner.config.train.batch_size


@pytest.mark.parametrize(
    ("placement", "own"), [("projector", ["fc1", "fc2"]), (["fc1", "fc2"], ["fc1", "fc2"]), ("fc2", ["fc2"])]
)
def test_invariant_41_a_projector_teacher_owns_the_projector_alone(placement, own):
    """Fails when every part is run again."""
    parts, _ = network()
    teacher = teacher_of(parts, placement)
    assert list(teacher.parts) == own and teacher.tap == {"fc1": "block4", "fc2": "fc1"}[own[0]]
    assert sum(p.numel() for p in teacher.parameters()) == sum(
        p.numel() for part in own for p in parts[part].parameters()
    )
    assert set(teacher.own_state()) == {f"{part}.{name}" for part in own for name in parts[part].state_dict()}


def test_a_teacher_of_fc1_runs_the_students_fc2():
    parts, _ = network()
    teacher = teacher_of(parts, "fc1")
    assert list(teacher.parts) == ["fc1", "fc2"] and teacher.tap == "block4"
    assert set(teacher.own_state()) == {f"fc1.{name}" for name in parts["fc1"].state_dict()}
    assert teacher.parts["fc2"][0].weight.data_ptr() == parts["fc2"][0].weight.data_ptr()


@pytest.mark.parametrize("placement", ["projector", "fc1", "fc2"])
def test_invariant_42_projector_with_momentum_0_is_a_siamese_network(placement):
    """Fails when the last part is copied by nine tenths."""
    parts, predictor = network()
    teacher = teacher_of(parts, placement, momentum=0.0)
    disturb(parts)
    teacher.update(0, RUN)
    output = Student(parts, predictor, teacher.tap)(two_views(), SHARDS.layout())
    loss, siamese = (
        loss_of(output.prediction, target)
        for target in (teacher(output.tapped, SHARDS.layout()), output.projection.detach())
    )
    torch.testing.assert_close(loss, siamese, rtol=1e-12, atol=1e-12)
    grads = [torch.autograd.grad(value, list(parts.parameters()), retain_graph=True) for value in (loss, siamese)]
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-12)


def test_invariant_43_whole_is_the_union_of_all_parts():
    """Fails when the last of several parts is left out of the average."""
    parts, _ = network()
    union = teacher_of(parts, list(reversed(c.PARTS)))
    whole, *singles = [teacher_of(parts, placement) for placement in ("whole", *c.PARTS)]
    for step in range(3):
        disturb(parts, step)
        for teacher in (union, whole, *singles):
            teacher.update(step, RUN)
    assert all(torch.equal(a, b) for a, b in zip(union.parameters(), whole.parameters(), strict=True))
    for name, single in zip(c.PARTS, singles, strict=True):
        assert single.config.placement == (name,)
        for own, of_whole in zip(single.parts[name].parameters(), whole.parts[name].parameters(), strict=True):
            assert torch.equal(own, of_whole)
    assert torch.equal(union(two_views(), SHARDS.layout()), whole(two_views(), SHARDS.layout()))


@pytest.mark.parametrize("placement", ["projector", "fc1", "fc2"])
def test_invariant_44_a_frozen_projector_keeps_its_initial_weights(tiny, digits, placement):
    """Fails when the student's share is at least 0.0001."""
    learner = learner_of(tiny, placement, digits, teacher__momentum__base=1.0)
    owned = learner.teacher.config.placement
    initial = [p.clone() for part in owned for p in learner.student.parts[part].parameters()]
    for at in range(3):
        take_step(learner, digits, at)
    students = [p for part in owned for p in learner.student.parts[part].parameters()]
    own = [p for part in owned for p in learner.teacher.parts[part].parameters()]
    for mine, student, then in zip(own, students, initial, strict=True):
        assert torch.equal(mine, then) and not torch.equal(student, then)


@pytest.mark.parametrize("norm", ["batch", "momentum", "eman"])
def test_invariant_45_a_shared_suffix_leaves_the_students_statistics_alone(norm):
    """Fails when the suffix is the student's own modules."""
    x, states = two_views(), []
    for placement in ("none", "backbone", ["block1"], ["block1", "fc1"]):
        parts, predictor = network()
        teacher = teacher_of(parts, placement, norm=norm if placement != "none" else "batch")
        disturb(teacher.parts["block1"] if "block1" in teacher.config.placement else nn.Identity())
        student_norms = norms_of(parts, predictor)
        begin(student_norms, 0.0)
        teacher.begin(0, RUN)
        output = Student(parts, predictor, teacher.tap)(x, SHARDS.layout())
        teacher(output.tapped, SHARDS.layout())
        commit(student_norms, Group())
        teacher.commit(Group())
        states.append({name: buffer.clone() for name, buffer in parts.named_buffers()})
        if len(teacher.parts) and norm == "batch":  # the teacher keeps its own, of what it saw itself
            own, students = teacher.parts["fc1"][1], parts["fc1"][1]
            assert not torch.allclose(own.running_mean, students.running_mean)
    assert all(torch.equal(state[name], states[0][name]) for state in states for name in states[0])


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_invariant_46_and_08_no_gradient_goes_through_the_teacher(tiny, digits, placement):
    """Fails when what is tapped keeps its graph, or the optimiser holds the teacher."""
    parts, predictor = network()
    teacher = teacher_of(parts, placement)
    output = Student(parts, predictor, teacher.tap)(two_views(), SHARDS.layout())
    assert not teacher(output.tapped, SHARDS.layout()).requires_grad and not output.tapped.requires_grad
    assert not loss_of(output.prediction.detach(), teacher(output.tapped, SHARDS.layout())).requires_grad

    learner = learner_of(tiny, placement, digits)
    take_step(learner, digits)
    assert all(p.grad is None and not p.requires_grad for p in learner.teacher.parameters())
    held = {id(p) for group in learner.optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in learner.student.parameters()} and not held & {
        id(p) for p in learner.teacher.parameters()
    }


@pytest.mark.parametrize("norm", ["batch", "momentum", "eman"])
def test_a_shared_suffix_has_the_students_own_storage(tiny, digits, norm):
    learner = learner_of(tiny, ["block2"], digits, teacher__norm__kind=norm)
    teacher, parts = learner.teacher, learner.student.parts
    assert list(teacher.parts) == ["block2", "block3", "block4", "fc1", "fc2"] and teacher.tap == "block1"

    def shared() -> dict[str, list[bool]]:
        names = teacher.parts.keys()
        return {
            n: [
                a.data_ptr() == b.data_ptr()
                for a, b in zip(teacher.parts[n].parameters(), parts[n].parameters(), strict=True)
            ]
            for n in names
        }

    take_step(learner, digits)
    tensors, values = learner.state_dict()
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    take_step(learner, digits, 1)
    learner.load_state_dict(tensors, values)
    take_step(learner, digits, 2)
    assert all(all(same) == (name != "block2") and any(same) == (name != "block2") for name, same in shared().items())
    assert not {b.data_ptr() for b in teacher.parts.buffers()} & {b.data_ptr() for b in parts.buffers()}


@pytest.mark.parametrize("norm", ["batch", "momentum", "eman"])
def test_own_state_has_averaged_parameters_and_all_buffers(norm):
    parts, _ = network()
    teacher = teacher_of(parts, ["block2", "block4"], norm=norm)
    own = set(teacher.own_state())
    assert {name for name, _ in teacher.parts.named_buffers()} <= own
    weights = own - {name for name, _ in teacher.parts.named_buffers()}
    assert weights == {f"{part}.{name}" for part in ("block2", "block4") for name, _ in parts[part].named_parameters()}


def test_without_a_placement_the_teacher_is_the_student():
    parts, predictor = network()
    teacher = teacher_of(parts, "none")
    output = Student(parts, predictor, teacher.tap)(two_views(), SHARDS.layout())
    assert teacher.tap == "fc2"
    assert (
        torch.equal(teacher(output.tapped, SHARDS.layout()), output.projection)
        and not teacher(output.tapped, SHARDS.layout()).requires_grad
    )
    teacher.begin(0, RUN), teacher.update(0, RUN), teacher.commit(Group()), teacher.gather(Group())
    assert teacher.own_state() == {} and list(teacher.parameters()) == [] and teacher.distance() == 0.0
    assert all(teacher.encoder(parts)[name] is parts[name] for name in c.PARTS)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_the_teachers_encoder_has_all_parts(placement):
    parts, _ = network()
    teacher = teacher_of(parts, placement)
    encoder = teacher.encoder(parts)
    assert list(encoder) == list(c.PARTS)
    assert all((encoder[name] is parts[name]) == (name not in teacher.parts) for name in c.PARTS)
