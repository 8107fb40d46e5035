"""What a step of a trial computes and what the trial holds in memory, counted on meta tensors, which have shapes only.

So a ResNet-50 on images of 224 x 224 is counted in a second, on any machine and without data. What a step takes on a
machine is measured by `trainables.running.dry_step`.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from trainables.config import trial as c
from trainables.config.base import ViewKind
from trainables.config.errors import UserError
from trainables.config.teacher import BACKBONE, PROJECTOR, Smoothing
from trainables.config.training import OnlineProbe
from trainables.data.feed import Batch
from trainables.data.pieces import Piece
from trainables.learning import optim
from trainables.learning.learner import Learner
from trainables.networks.encoders import Prototypes
from trainables.networks.group import Group
from trainables.running.resolve import resolved
from trainables.running.stored import Known

META = torch.device("meta")
EPOCH_STEPS = 10**6  # of a run that is counted, so that no warm-up is longer than it
LAYERS = (nn.Conv2d, nn.Linear, Prototypes)
SHORTCUTS = ("downsample", "shortcut")  # names of the modules that adapt a block's input


@dataclass(frozen=True)
class PartCounts:
    """Counts of a part of the encoder.

    Attributes:
        part: its name.
        parameters: of the student's part.
        layers: its convolutions, those of shortcuts included, and linear layers, prototypes included.
        averaged: whether the teacher has an averaged copy of it.
        student: pictures that go through it in a step for the student, for each image of the batch.
        teacher: the same for the teacher. What the teacher takes from the student's forward is not counted again.
    """

    part: str
    parameters: int
    layers: int
    averaged: bool
    student: float
    teacher: float


@dataclass(frozen=True)
class Flop:
    """Floating-point operations of a step over the whole batch: 2 for each multiplication with its addition.

    Convolutions and products of matrices count, as torch counts them. Norms, activations, optimiser and averaging do
    not.

    Attributes:
        student: its forward.
        teacher: its forward, including student's parts that run only for the teacher.
        backward: of the student, with the loss and the online probe.
    """

    student: int
    teacher: int
    backward: int

    @property
    def total(self) -> int:
        """Of all three."""
        return self.student + self.teacher + self.backward


@dataclass(frozen=True)
class Memory:
    """Bytes that a trial holds between two steps on one worker. Activations are not among them.

    Attributes:
        student: parameters of the student, its predictor and online probe included.
        student_buffers: statistics of the student's norms.
        gradients: their sum over the passes of a step, and their mean.
        optimiser: its state.
        teacher: averaged parameters.
        teacher_buffers: statistics of the teacher's norms.
        method: state of the method, such as its queue.
    """

    student: int
    student_buffers: int
    gradients: int
    optimiser: int
    teacher: int
    teacher_buffers: int
    method: int

    @property
    def total(self) -> int:
        """The sum of all."""
        return sum(dataclasses.astuple(self))


@dataclass(frozen=True)
class Counts:
    """What is counted of a trial.

    Attributes:
        batch: images of a step.
        views: that are made of an image.
        parts: of the encoder, in order.
        student_parameters: of the student as a whole, predictor and online probe included.
        teacher_parameters: of the teacher alone: those that are averaged.
        averaged_modules: layers of the teacher that are averaged, see `PartCounts.layers`.
        nominal_layers: the same as papers count them: the depth in the network's name where the whole backbone is
            averaged, else its convolutions off the shortcuts, and the linear layers of the head, prototypes excluded.
        flop: of a step.
        memory: of one worker that has the whole batch.
        without_probe: whether the online probe is left out, because the number of classes is not known.
    """

    batch: int
    views: int
    parts: tuple[PartCounts, ...]
    student_parameters: int
    teacher_parameters: int
    averaged_modules: int
    nominal_layers: int
    flop: Flop
    memory: Memory
    without_probe: bool

    @property
    def backbone_parameters(self) -> int:
        """Of the backbones of student and teacher together; a part that they share counts once."""
        return sum(part.parameters * (2 if part.averaged else 1) for part in self.parts if part.part in BACKBONE)

    @property
    def forwards_a_view(self) -> float:
        """How often the whole backbone runs for each view of an image, for student and teacher together."""
        return min(part.student + part.teacher for part in self.parts if part.part in BACKBONE) / self.views


def counted(config: c.TrialConfig, known: Known) -> Counts:
    """Counts a trial.

    Args:
        config: of the trial.
        known: facts of its data.

    Raises:
        UserError: the method classifies, and the number of classes is not known.
    """
    without_probe = known.classes is None and bool(config.online_probe.lr)
    config = _countable(config, known.classes)
    images = config.train.batch_size * EPOCH_STEPS
    learner = Learner(config, known.shape[-1], images, Group(device=META), known.classes or 0)
    # In training mode norms need kernels that meta tensors lack. They are not counted, so their mode does not matter.
    learner.student.eval()
    learner.teacher.eval()
    passes, tally = learner.passes(), Tally(learner)
    tally.run(passes[0], made_up(config, passes[0], known.shape, learner.dtype))
    counted_images = len(passes[0]) * config.train.shard_size
    averaged = set(learner.teacher.averaged)
    parts = tuple(
        PartCounts(
            part=name,
            parameters=_numel(part.parameters()),
            layers=len(_layers(part)),
            averaged=name in averaged,
            student=tally.pictures["student", name] / counted_images,
            teacher=tally.pictures["teacher", name] / counted_images,
        )
        for name, part in learner.student.parts.items()
    )
    return Counts(
        batch=config.train.batch_size,
        views=len(config.method.views),
        parts=parts,
        student_parameters=_numel(learner.student.parameters()),
        teacher_parameters=_numel(tensor for tensors in learner.teacher.averaged.values() for tensor in tensors),
        averaged_modules=sum(part.layers for part in parts if part.averaged),
        nominal_layers=_nominal_layers(learner),
        flop=tally.flop(len(passes)),
        memory=_memory(learner),
        without_probe=without_probe,
    )


class Tally:
    """Counts pictures and operations of a Learner's forwards and backward.

    Args:
        learner: on meta tensors.

    Attributes:
        pictures: that went through each part, by network and part.
    """

    def __init__(self, learner: Learner):
        self.pictures: Counter[tuple[str, str]] = Counter()
        self._learner, self._counter = learner, FlopCounterMode(display=False)
        self._flop: Counter[str] = Counter()
        self._begun: dict[nn.Module, int] = {}
        self._in_student = False
        for network, module in (("student", learner.student), ("teacher", learner.teacher)):
            module.register_forward_pre_hook(self._begin)
            module.register_forward_hook(lambda module, args, output, name=network: self._end(module, name))
        for name, part in learner.student.parts.items():
            part.register_forward_pre_hook(self._begin)
            part.register_forward_hook(lambda module, args, output, part=name: self._end_of_part(module, part, args[0]))
        for name, part in learner.teacher.parts.items():
            part.register_forward_hook(lambda module, args, output, part=name: self._see("teacher", part, args[0]))

    def run(self, shards: range, batch: Batch) -> None:
        """Counts the forwards and the backward of some shards."""
        with self._counter:
            self._learner.learn_from(shards, batch)

    def flop(self, passes: int) -> Flop:
        """The operations of a step with so many passes like the one that was run."""
        student, teacher = (passes * self._flop[network] for network in ("student", "teacher"))
        return Flop(student, teacher, passes * self._counter.get_total_flops() - student - teacher)

    def _begin(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self._begun[module] = self._counter.get_total_flops()
        self._in_student = self._in_student or module is self._learner.student

    def _end(self, module: nn.Module, network: str) -> None:
        self._flop[network] += self._counter.get_total_flops() - self._begun[module]
        self._in_student = False

    def _end_of_part(self, module: nn.Module, part: str, pictures: Tensor) -> None:
        """Ends the forward of a student's part; outside of the student's own forward it runs for the teacher."""
        self._see("student" if self._in_student else "teacher", part, pictures)
        if not self._in_student:
            self._flop["teacher"] += self._counter.get_total_flops() - self._begun[module]

    def _see(self, network: str, part: str, pictures: Tensor) -> None:
        self.pictures[network, part] += len(pictures)


def made_up(config: c.TrialConfig, shards: range, shape: tuple[int, int, int], dtype: torch.dtype) -> Batch:
    """Pictures without values of some shards, as `Feed.batches` gives them with values.

    Args:
        config: of the trial.
        shards: that the pictures are of.
        shape: height, width and channels of an image.
        dtype: of the pictures.
    """
    method, size = config.method, config.train.shard_size
    streams: dict[str, tuple[tuple[ViewKind, ...], int]] = {"images": (method.views, size)}
    if method.LABELLED_VIEWS:
        streams["labelled"] = (method.LABELLED_VIEWS, method.labelled_in(size))
    height, width, channels = shape
    local = config.views.local_side(min(height, width))
    pictures, labels = {}, {}
    for stream, (kinds, count) in streams.items():
        for number, kind in enumerate(kinds):
            sides = (local, local) if kind == "local" else (height, width)
            piece = Piece("labelled" if stream == "labelled" else "images", number)
            pictures[piece] = torch.empty(len(shards) * count, channels, *sides, dtype=dtype, device=META)
        labels[stream] = torch.zeros(len(shards) * count, dtype=torch.int64, device=META)
    return Batch(pictures, labels)


def _countable(config: c.TrialConfig, classes: int | None) -> c.TrialConfig:
    """The trial without what changes no count.

    These are autocast and masks, which do not run on meta tensors, the file of `init`, which need not be there, and
    traces, which would be too many for a run of `EPOCH_STEPS` an epoch.

    Without a number of classes it has no online probe.

    Raises:
        UserError: the method classifies, and there is no number of classes.
    """
    if classes is None and config.method.CLASSIFIES:
        rule = "classifies, and the number of classes is not known without the data; give it with --classes"
        raise UserError(f"method.name = {config.method.name}: {rule}")
    config = resolved(config.model_copy(update={"init": c.Init()}), classes or 0)
    monitors = config.monitors.model_copy(update={"every": None})
    teacher = config.teacher.model_copy(update={"smoothing": Smoothing()})
    precision = "fp64" if config.train.precision == "fp64" else "fp32"  # bf16 keeps parameters in float32, too
    train = config.train.model_copy(update={"precision": precision})
    probe = config.online_probe if classes else OnlineProbe()
    left = {"teacher": teacher, "train": train, "online_probe": probe, "monitors": monitors}
    return config.model_copy(update=left)


def _memory(learner: Learner) -> Memory:
    """Bytes by what they are for, after a first step of the optimiser."""
    for parameter in learner.student.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    learner.optimizer.step()
    averaged = [tensor for tensors in learner.teacher.averaged.values() for tensor in tensors]
    return Memory(
        student=_bytes(learner.student.parameters()),
        student_buffers=_bytes(learner.student.buffers()),
        gradients=learner.gradient_memory,
        optimiser=_bytes(optim.state_of(learner.optimizer, learner.student).values()),
        teacher=_bytes(averaged),
        teacher_buffers=_bytes(learner.teacher.parts.buffers()),
        method=_bytes(learner.method_state.values()),
    )


def _layers(part: nn.Module) -> list[str]:
    """Names of the layers in a part."""
    return [name for name, module in part.named_modules() if isinstance(module, LAYERS)]


def _nominal_layers(learner: Learner) -> int:
    """See `Counts.nominal_layers`."""
    parts, averaged = learner.student.parts, learner.teacher.averaged
    depth = re.search(r"\d+", learner.config.encoder.name)
    assert depth is not None
    if averaged.keys() >= parts.keys() & set(BACKBONE):
        backbone = int(depth[0])
    else:
        kept = [name for part in averaged if part in BACKBONE for name in _layers(parts[part])]
        backbone = sum(not any(word in name for word in SHORTCUTS) for name in kept)
    head = [module for part in averaged if part in PROJECTOR for module in parts[part].modules()]
    return backbone + sum(isinstance(module, nn.Linear) for module in head)


def _numel(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
