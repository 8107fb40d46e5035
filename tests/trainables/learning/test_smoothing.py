"""Spatial Ensemble and spatial-temporal smoothing at every granularity, against the formulas in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.trainables.teachers import TOTAL, Numbers, buffers, disturb, parameters, same, student_parts, teacher_of
from trainables.config import trial as c
from trainables.data import keyed
from trainables.learning.teacher import Teacher
from trainables.networks.encoders import build_parts
from trainables.networks.norms.base import Shards

UNITS: dict[str, dict[str, Any]] = {
    "layer": {"granularity": "layer"},
    "channel": {"granularity": "channel"},
    "coupled": {"granularity": "channel", "coupled": True},
    "neuron": {"granularity": "neuron"},
}
at_every_granularity = pytest.mark.parametrize("units", UNITS.values(), ids=UNITS)


@pytest.fixture
def parts() -> nn.ModuleDict:
    return student_parts()


def in_units(tensor: Tensor, units: dict[str, Any]) -> Tensor:
    """A row for each unit of a tensor."""
    rows = {"layer": 1, "channel": len(tensor), "neuron": tensor.numel()}[units["granularity"]]
    return tensor.detach().reshape(rows, -1)


def updated(teacher: Teacher, old: Numbers, units: dict[str, Any]) -> Numbers:
    """Which units of each tensor moved; a unit moves as a whole or not at all.

    Vectors that are coupled to a matrix are left out.
    """
    found = {}
    for name, p in teacher.parts.named_parameters():
        moved = in_units(p, units) != in_units(old[name], units)
        assert torch.equal(moved.any(1), moved.all(1)), name
        found[name] = moved.any(1)
    return {name: moved for name, moved in found.items() if not units.get("coupled") or old[name].ndim > 1}


def mask(teacher: Teacher, units: dict[str, Any], step: int, rank: int = 0) -> Tensor:
    """Which units move at a step, all tensors in a row; the teacher is put back."""
    old = parameters(teacher.parts)
    teacher.update(step, TOTAL, rank)
    moved = updated(teacher, old, units)
    teacher.parts.load_state_dict(old, strict=False)
    return torch.cat(list(moved.values()))


@at_every_granularity
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_invariant_30_and_32_p_0_is_plain_averaging(parts, units, momentum):
    """Fails when p is read as the chance of an update."""
    plain, ensemble = (
        teacher_of(parts, momentum=momentum),
        teacher_of(parts, kind="sts", p=0.0, momentum=momentum, **units),
    )
    for step in range(3):
        disturb(parts, step)
        plain.update(step, TOTAL), ensemble.update(step, TOTAL)
        assert same(parameters(plain.parts), parameters(ensemble.parts))
        assert same(parameters(ensemble.parts), parameters(parts)) == (momentum == 0)


@at_every_granularity
@pytest.mark.parametrize("kind", ["se", "sts"])
@pytest.mark.parametrize("norm", ["batch", "eman"])
def test_invariant_31_p_1_freezes(parts, units, kind, norm):
    """Fails when p is read as the chance of an update, and at each granularity when p is 1 % or 0.1 % smaller."""
    teacher = teacher_of(parts, kind=kind, p=1.0, momentum=0.5, norm=norm, **units)
    before = parameters(teacher.parts) | buffers(teacher.parts)
    for step in range(5):
        disturb(parts, step)
        teacher.update(step, TOTAL)
    assert same(parameters(teacher.parts) | buffers(teacher.parts), before)


@at_every_granularity
@pytest.mark.parametrize(("kind", "kept_share"), [("se", 0.0), ("sts", 0.9)])
def test_invariant_33_each_unit_is_old_or_averaged_as_a_whole(parts, units, kind, kept_share):
    """Fails when a layer's first channel alone is averaged, a channel moves by half, a neuron is copied."""
    teacher = teacher_of(parts, kind=kind, p=0.5, momentum=0.9, **units)
    old = parameters(teacher.parts)
    disturb(parts, 1)
    new = parameters(parts)
    teacher.update(3, TOTAL)
    moved = torch.cat(list(updated(teacher, old, units).values()))
    assert 0.3 < moved.double().mean() < 0.7
    for name, p in teacher.parts.named_parameters():
        average, was = kept_share * old[name] + (1 - kept_share) * new[name], old[name]
        torch.testing.assert_close(p.detach(), torch.where(p.detach() == was, was, average), rtol=1e-12, atol=1e-13)


@at_every_granularity
def test_invariant_33_a_unit_is_no_larger_than_its_name_says(parts, units):
    """Fails when neurons are drawn as channels."""
    teacher = teacher_of(parts, kind="sts", p=0.5, **units)
    old = parameters(teacher.parts)
    disturb(parts, 1)
    teacher.update(3, TOTAL)
    moved = {name: p.detach() != old[name] for name, p in teacher.parts.named_parameters()}
    several_channels = any(0 < rows.reshape(len(rows), -1).any(1).sum() < len(rows) for rows in moved.values())
    several_numbers = any(0 < row.sum() < row.numel() for rows in moved.values() for row in rows)
    assert several_channels == (units["granularity"] != "layer") and several_numbers == (
        units["granularity"] == "neuron"
    )


@pytest.mark.parametrize("coupled", [True, False])
def test_coupled_channels_of_a_layer_take_its_bias_and_its_norm_along(parts, coupled):
    units = {"granularity": "channel", "coupled": coupled}
    teacher = teacher_of(parts, kind="sts", p=0.5, **units)
    old = parameters(teacher.parts)
    disturb(parts, 1)
    teacher.update(3, TOTAL)
    own = dict(teacher.parts.named_parameters())

    def moved(name: str) -> list[bool]:
        return (
            (own[name] != old[name]).flatten(1).any(1).tolist()
            if own[name].ndim > 1
            else (own[name] != old[name]).tolist()
        )

    layers = {
        "conv1.0": "conv1.1",
        "block2.0.conv2": "block2.0.bn2",
        "block3.0.downsample.0": "block3.0.downsample.1",
        "fc1.0": "fc1.1",
    }
    pairs = [(f"{layer}.weight", f"{norm}.{leaf}") for layer, norm in layers.items() for leaf in ("weight", "bias")]
    pairs += [(f"{layer}.weight", f"{layer}.bias") for layer in ("fc1.0", "fc2.0")]
    assert all(moved(layer) == moved(vector) for layer, vector in pairs) == coupled
    assert (
        len({tuple(moved(f"block2.{i}.conv{j}.weight")) for i in (0, 1) for j in (1, 2)}) == 4
    )  # layers draw on their own


@at_every_granularity
@pytest.mark.parametrize("p", [0.3, 0.7])
def test_invariant_34_a_share_of_1_minus_p_is_updated(parts, units, p):
    """Fails when p is raised to the power 1.2, at each granularity."""
    steps = 40
    teacher = teacher_of(parts, kind="sts", p=p, **units)
    disturb(parts, 1)
    moved = torch.stack([mask(teacher, units, step) for step in range(steps)]).double()
    assert abs(moved.mean().item() - (1 - p)) < 4 * (p * (1 - p) / moved.numel()) ** 0.5
    assert (moved.mean(0) - (1 - p)).abs().max() < 5.5 * (p * (1 - p) / steps) ** 0.5  # every unit in its turn


@at_every_granularity
def test_invariant_35_the_mean_over_masks_is_averaging_with_an_effective_momentum(parts, units):
    """Fails when p and 1 - p are swapped, or what is updated moves by (1 - p) as well."""
    p, beta, masks = 0.4, 0.9, 150
    teacher = teacher_of(parts, kind="sts", p=p, momentum=beta, **units)
    own = [p.data for p in teacher.parts.parameters()]
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
        assert (apart <= 5.5 * standard_error + 1e-12).all()


@at_every_granularity
@pytest.mark.parametrize("norm", ["batch", "momentum"])
def test_invariant_36_masks_leave_buffers_alone(parts, units, norm):
    """Fails when an update touches the history, or averages plain running statistics."""
    teacher = teacher_of(parts, kind="sts", p=0.5, norm=norm, **units)
    before = buffers(teacher.parts)
    disturb(parts, 1)
    teacher.update(0, TOTAL)
    assert same(buffers(teacher.parts), before)


@at_every_granularity
def test_invariant_37_the_mask_is_a_function_of_seed_and_step(parts, units):
    """Fails when the step is left out of the key, or the rank put in."""
    first, again, other = (teacher_of(parts, seed=seed, kind="sts", p=0.5, **units) for seed in (3, 3, 4))
    disturb(parts, 1)
    torch.manual_seed(0)
    masks = [mask(first, units, step).tolist() for step in range(4)]
    torch.manual_seed(1)
    assert [mask(again, units, step, rank=step).tolist() for step in range(4)] == masks  # on any worker
    assert mask(again, units, 2).tolist() == masks[2]  # whatever went before
    assert len({tuple(one) for one in masks}) == 4
    assert mask(other, units, 0).tolist() != masks[0]


@at_every_granularity
def test_invariant_37_masks_per_worker_differ_and_teachers_diverge(parts, units):
    """Fails when the rank is not in the key."""
    p = 0.5
    ranks = (0, 1, 1)
    teachers = [teacher_of(parts, kind="sts", p=p, masks="per_worker", **units) for _ in ranks]
    disturb(parts, 1)
    first, second, again = (mask(teacher, units, 0, rank) for teacher, rank in zip(teachers, ranks, strict=True))
    assert torch.equal(second, again)
    alike = (first == second).double().mean().item()
    assert abs(alike - 0.5) < 4 * (0.25 / len(first)) ** 0.5  # independent draws
    for step in range(3):
        disturb(parts, step)
        for teacher, rank in zip(teachers, ranks, strict=True):
            teacher.update(step, TOTAL, rank)
    one, two, three = (parameters(teacher.parts) for teacher in teachers)
    assert same(two, three) and not same(one, two)


@pytest.mark.parametrize(("granularity", "draws"), [("layer", 165), ("channel", None), ("neuron", None)])
def test_invariant_38_draws_of_a_resnet50_with_projector(monkeypatch, granularity, draws):
    """165 a step at layer granularity; otherwise one for each channel, or for each number."""
    # Fails when the predictor's six tensors draw as well.
    parts = build_parts(
        c.Encoder(name="resnet50", width=4, projector=c.Head(hidden=4, out=4)), 3, Shards(4, 1, range(1))
    )
    teacher = teacher_of(parts, kind="sts", p=0.5, granularity=granularity)
    counts, uniform, choices = [], keyed.uniform, keyed.choices

    def counted(samples: Tensor, count: int, *key: int | str) -> Tensor:
        counts.append(len(samples) * count)
        return uniform(samples, count, *key)

    def counted_bits(count: int, *args: Any, **others: Any) -> Tensor:
        counts.append(count)
        return choices(count, *args, **others)

    monkeypatch.setattr(keyed, "uniform", counted)
    monkeypatch.setattr(keyed, "choices", counted_bits)
    for step in range(2):
        teacher.update(step, TOTAL)
    units = sum(len(in_units(p, {"granularity": granularity})) for p in parts.parameters())
    assert counts == [draws or units] * 2 and len(list(parts.parameters())) == 165


@at_every_granularity
def test_invariant_39_spatial_ensemble_never_mixes(parts, units):
    """Also with a momentum in the configuration, which "se" does not use."""
    # Fails when "se" follows the configured momentum.
    teacher = teacher_of(parts, kind="se", p=0.6, momentum=0.9, **units)
    past = [parameters(parts)]
    for step in range(6):
        disturb(parts, step)
        past.append(parameters(parts))
        teacher.update(step, TOTAL)
    origins = set()
    for name, p in teacher.parts.named_parameters():
        known = torch.stack([p.detach() == student[name] for student in past])
        assert known.any(0).all()
        origins |= set(known.int().argmax(0).flatten().tolist())
    assert len(origins) > 3
    assert teacher.momentum(0, TOTAL) == 0.0


@at_every_granularity
def test_a_part_with_a_momentum_of_its_own_keeps_it_where_all_others_are_copied(parts, units):
    """A frozen part does not move in a Spatial Ensemble either; at another momentum its updated units are averaged."""
    # Fails when "se" does not look at `momenta`.
    teacher = teacher_of(parts, kind="se", p=0.3, momenta={"fc2": 1.0, "fc1": 0.9}, **units)
    began = parameters(teacher.parts)
    past = [parameters(parts)]
    for step in range(4):
        old = parameters(teacher.parts)
        disturb(parts, step)
        past.append(parameters(parts))
        teacher.update(step, TOTAL)
        for name, p in teacher.parts.named_parameters():
            part, now = name.split(".")[0], p.detach()
            if part == "fc2":
                assert torch.equal(now, began[name])
                continue
            moved = 0.9 * old[name] + 0.1 * past[-1][name] if part == "fc1" else past[-1][name]
            torch.testing.assert_close(now, torch.where(now == old[name], old[name], moved), rtol=1e-12, atol=1e-13)
    assert not same(parameters(teacher.parts), began)
    rates = [teacher.momentum(0, TOTAL, part) for part in (None, "conv1", "fc1", "fc2")]
    assert rates == [0.0, 0.0, 0.9, 1.0]


@at_every_granularity
def test_p_follows_its_schedule(parts, units):
    """From a frozen teacher to plain averaging, and half of the units in between."""
    schedule = {"kind": "linear", "base": 1.0, "final": 0.0}
    teacher, plain = teacher_of(parts, kind="sts", p=schedule, **units), teacher_of(parts)
    before = parameters(teacher.parts)
    disturb(parts, 1)
    teacher.update(0, TOTAL)
    assert teacher.p(0, TOTAL) == 1.0 and same(parameters(teacher.parts), before)
    share = mask(teacher, units, 75).double()
    assert teacher.p(75, TOTAL) == 0.25
    assert abs(share.mean().item() - 0.75) < 4 * (0.25 * 0.75 / len(share)) ** 0.5
    teacher.update(100, TOTAL), plain.update(100, TOTAL)
    assert teacher.p(100, TOTAL) == plain.p(0, TOTAL) == 0.0 and same(
        parameters(teacher.parts), parameters(plain.parts)
    )


@at_every_granularity
def test_a_masked_first_copy_leaves_a_share_of_p_units_at_another_initialisation(parts, units):
    config = c.Teacher.model_validate({"smoothing": {"kind": "sts", "p": 0.7, "first_copy": "masked", **units}})
    other = student_parts(seed=8)
    teacher, old = Teacher(config, parts, 0, other), parameters(other)
    copied = torch.cat(list(updated(teacher, old, units).values())).double()
    assert abs(copied.mean().item() - 0.3) < 4 * (0.7 * 0.3 / len(copied)) ** 0.5
    for name, p in teacher.parts.named_parameters():
        assert torch.equal(p, torch.where(p == old[name], old[name], parameters(parts)[name]))
    assert same(buffers(teacher.parts), buffers(parts))


def test_first_copies_of_a_learner(tiny, digits, learner_of):
    """Exact by default; masked, from weights of another seed."""
    exact, masked = (
        learner_of(tiny({"teacher.smoothing": {"kind": "sts", "first_copy": copy}})) for copy in ("exact", "masked")
    )
    assert exact.teacher.distance() == 0.0 and 0.3 < masked.teacher.distance() < 2
    assert same(parameters(exact.student), parameters(masked.student))
    convolution = masked.teacher.parts["block4"][0].conv2.weight
    assert convolution.std().item() == pytest.approx(
        exact.student.parts["block4"][0].conv2.weight.std().item(), rel=0.1
    )


@pytest.mark.parametrize("granularity", ["channel", "neuron"])
def test_the_layout_in_memory_matters_neither_to_channels_nor_to_what_a_neuron_averages(parts, granularity):
    """Neurons are drawn in the order in which they lie in memory, but each is old or averaged in either layout."""
    last = student_parts().to(memory_format=torch.channels_last)
    teachers = [teacher_of(one, kind="sts", p=0.5, granularity=granularity) for one in (parts, last)]
    old = parameters(teachers[0].parts)
    for one, teacher in zip((parts, last), teachers, strict=True):
        disturb(one, 1)
        teacher.update(0, TOTAL)
    for name, p in teachers[1].parts.named_parameters():
        average = 0.9 * old[name] + 0.1 * parameters(parts)[name]
        torch.testing.assert_close(p.detach(), torch.where(p == old[name], old[name], average), rtol=1e-12, atol=1e-13)
    if granularity == "channel":
        assert same(parameters(teachers[0].parts), parameters(teachers[1].parts))
