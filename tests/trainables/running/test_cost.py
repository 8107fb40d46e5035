"""Counts of a trial, against the plain formulas and torchvision's own networks."""

from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models import resnet50

from trainables.config import trial as c
from trainables.config.errors import UserError
from trainables.learning.learner import Learner
from trainables.networks.group import Group
from trainables.running import cost
from trainables.running.resolve import resolved
from trainables.running.stored import Known, known

IMAGENET = {"name": "imagefolder", "root": "nowhere", "image_size": 224}
LARGE: dict[str, Any] = {"encoder": {"name": "resnet50", "stem": "standard"}, "data": IMAGENET}
TINY: dict[str, Any] = {
    "data": {"name": "digits"},
    "encoder": {"name": "resnet10", "width": 4, "projector": {"hidden": 6, "out": 5}},
    "method": {"predictor_hidden": 7},
    "train": {"batch_size": 8, "shard_size": 4},
}
BACKBONE = ("conv1", "block1", "block2", "block3", "block4")


def counts_of(given: dict[str, Any], classes: int | None = 10, **changes: object) -> cost.Counts:
    config = c.changed(given, changes)
    return cost.counted(config, Known(None, known(config).shape, classes))


def conv(inputs: int, outputs: int, kernel: int, side: int) -> int:
    """Operations of a convolution for one picture: a product and a sum for each weight at each place of the output."""
    return 2 * inputs * outputs * kernel * kernel * side * side


def test_parameters_and_layers_are_torchvisions() -> None:
    reference = resnet50()
    reference.fc = nn.Identity()
    weights = sum(p.numel() for p in reference.parameters())
    convolutions = sum(isinstance(module, nn.Conv2d) for module in reference.modules())
    head = 2048 * 4096 + 4096 + 2 * 4096 + 4096 * 256 + 256
    for placement, copied, layers, nominal in (
        ("whole", weights + head, convolutions + 2, 50 + 2),
        ("backbone", weights, convolutions, 50),
        ("projector", head, 2, 2),
        ("none", 0, 0, 0),
    ):
        counts = counts_of(LARGE, **{"teacher.placement": placement})
        assert counts.teacher_parameters == copied
        assert counts.backbone_parameters == weights * (2 if placement in ("whole", "backbone") else 1)
        assert (counts.averaged_modules, counts.nominal_layers) == (layers, nominal)
        assert counts.student_parameters == weights + head + (256 * 4096 + 4096 + 2 * 4096 + 4096 * 256 + 256)


def test_dinos_figures_of_the_placement_paper() -> None:
    """Its Table 4 prints 53 and 3 layers, 47.0 and 23.5 million parameters, 2 and 1 forwards of a view."""
    dino = {**LARGE, "preset": "placement_imagenet100", "method": {"name": "dino"}}
    whole, projector = (counts_of(dino, **{"teacher.placement": placement}) for placement in ("whole", "projector"))
    assert [counts.nominal_layers for counts in (whole, projector)] == [53, 3]
    assert [round(counts.backbone_parameters / 1e6, 1) for counts in (whole, projector)] == [47.0, 23.5]
    assert [counts.forwards_a_view for counts in (whole, projector)] == [2, 1]
    assert [counts.averaged_modules for counts in (whole, projector)] == [57, 4]  # shortcuts and prototypes included


@pytest.mark.parametrize(
    ("placement", "teacher"),
    [
        ("whole", dict.fromkeys([*BACKBONE, "fc1", "fc2"], 2)),
        ("projector", {"fc1": 2, "fc2": 2}),
        (["block4"], {"block4": 2, "fc1": 2, "fc2": 2}),  # the shared suffix runs again
        ("none", {}),
    ],
)
def test_a_shared_prefix_runs_once(placement: object, teacher: dict[str, int]) -> None:
    """Two views: the student's backbone runs twice for an image, and the teacher's only where it has its own."""
    counts = counts_of(TINY, **{"teacher.placement": placement})
    assert {part.part: part.student for part in counts.parts} == dict.fromkeys([*BACKBONE, "fc1", "fc2"], 2)
    assert {part.part: part.teacher for part in counts.parts if part.teacher} == teacher


def test_pictures_that_only_the_teacher_sees_are_its_own() -> None:
    """MoCo's key is no view of the student: with a shared backbone the student's weights run for the teacher."""
    moco = {**TINY, "method": {"name": "moco", "queue": 16}}
    counts = counts_of(moco, **{"teacher.placement": "projector"})
    assert [(part.student, part.teacher) for part in counts.parts] == [(1, 1)] * 7
    assert counts.flop.teacher == counts_of(moco, **{"teacher.placement": "whole"}).flop.teacher


def test_pictures_of_labelled_and_of_small_views() -> None:
    fixmatch = {**TINY, "method": {"name": "fixmatch", "images_per_label": 4}}
    fixmatch["encoder"] = {"name": "resnet10", "width": 4}
    assert counts_of(fixmatch).parts[0].student == 2 + 1 / 4
    dino = {**TINY, "method": {"name": "dino", "local_views": 3}}
    dino["encoder"] = {"name": "resnet10", "width": 4}
    few, many = counts_of(dino, **{"method.local_views": 1}), counts_of(dino)
    assert (many.parts[0].student, many.parts[0].teacher) == (5, 2)
    assert many.flop.teacher == few.flop.teacher and many.flop.student > few.flop.student


def test_operations_against_the_formula() -> None:
    """A ResNet-10 of width 4 on 8 x 8 grey pictures, summed by hand."""
    counts = counts_of(TINY)
    first = conv(1, 4, 3, 8)
    blocks = 2 * conv(4, 4, 3, 8)
    for inputs, outputs, side in ((4, 8, 4), (8, 16, 2), (16, 32, 1)):
        blocks += conv(inputs, outputs, 3, side) + conv(outputs, outputs, 3, side) + conv(inputs, outputs, 1, side)
    projector, predictor = 2 * (32 * 6 + 6 * 5), 2 * (5 * 7 + 7 * 5)
    pictures = 2 * 8  # of a step
    assert counts.flop.teacher == pictures * (first + blocks + projector)
    assert counts.flop.student == pictures * (first + blocks + projector + predictor)
    # a gradient of the weights and one of the input, which the first convolution does not need
    assert counts.flop.backward == pictures * (first + 2 * (blocks + projector + predictor))


def test_bytes_are_those_of_a_learner() -> None:
    """Of a real one after a step, with LARS, Momentum BN and a probe."""
    config = c.changed(
        TINY, {"optim.name": "lars", "teacher.norm.kind": "momentum", "online_probe.lr": 0.1, "train.precision": "fp64"}
    )
    learner = Learner(resolved(config, 10), 1, 1000, Group(), 10)
    for parameter in learner.student.parameters():
        parameter.grad = torch.zeros_like(parameter)
    learner.optimizer.step()
    tensors, _ = learner.state_dict()
    counts = cost.counted(config, known(config))
    sizes = {
        prefix: sum(t.nbytes for name, t in tensors.items() if name.startswith(f"{prefix}."))
        for prefix in ("student", "optimizer", "teacher")
    }
    held = counts.memory
    assert held.student + held.student_buffers == sizes["student"]
    assert held.optimiser == sizes["optimizer"]
    assert held.teacher + held.teacher_buffers == sizes["teacher"]
    assert held.gradients == pytest.approx(2 * held.student, rel=1e-3)  # sum and mean in float64, with two requests
    assert held.total == sum(vars(held).values())


def test_what_changes_no_count() -> None:
    plain = counts_of(TINY)
    for changes in (
        {"train.precision": "bf16"},
        {"teacher.smoothing": {"kind": "sts", "p": 0.5, "first_copy": "masked"}},
        {"teacher.update": "after", "optim.lr.warmup": "50 steps"},
        {"monitors": {"names": ["gradients"], "every": "1 step"}},
    ):
        assert counts_of(TINY, **changes) == plain
    joint = counts_of(TINY, **{"encoder.norm": "sync"})  # all shards in one pass
    assert joint.flop == plain.flop and joint.parts == plain.parts


def test_facts_without_the_data() -> None:
    config = c.parse(LARGE)
    assert known(config) == Known(None, (224, 224, 3), None)
    named = c.changed(LARGE, {"data.classes": ["n01", "n02", "n03"]})
    assert known(named).classes == 3
    assert known(c.parse({"data": {"name": "stl10", "root": "nowhere", "train_split": "both"}})) == Known(
        104_500, (96, 96, 3), 10
    )
    with pytest.raises(UserError, match=r"data.image_size: must be given, such as 224, where the data are missing"):
        known(c.parse({"data": {"name": "parquet", "root": "nowhere"}}))


def test_a_number_of_classes_that_is_not_known() -> None:
    probed = c.changed(LARGE, {"online_probe.lr": 0.1})
    counts = cost.counted(probed, known(probed))
    assert counts.without_probe and counts.student_parameters == counts_of(LARGE).student_parameters
    assert not cost.counted(probed, Known(None, (224, 224, 3), 1000)).without_probe
    with pytest.raises(UserError, match="method.name = fixmatch: classifies, .* give it with --classes"):
        counts_of({"method": {"name": "fixmatch"}, "data": IMAGENET}, classes=None)


def test_classes_cost_no_memory() -> None:
    """A probe of 10^11 classes would be 2 TB on the CPU, even at width 4; it is counted as any other."""
    probed = {**TINY, "online_probe": {"lr": 0.1}}
    few, many = counts_of(probed, classes=10), counts_of(probed, classes=10**11)
    assert many.student_parameters - few.student_parameters == (10**11 - 10) * (32 + 1)
