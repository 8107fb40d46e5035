"""Everything that can be chosen of a teacher: the section `teacher` of a TrialConfig. Needs no torch."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from trainables.config.errors import nearest
from trainables.config.norms import TEACHER_NORMS, NormOptions, TeacherKind
from trainables.config.sections import CosineShare, Duration, Factor, Schedule, Section, Share

BACKBONE = ("conv1", "block1", "block2", "block3", "block4")
PROJECTOR = ("fc1", "fc2")  # the projector up to its last layer, and that layer
PARTS = BACKBONE + PROJECTOR
PLACEMENTS = {"whole": PARTS, "backbone": BACKBONE, "projector": PROJECTOR, "none": ()}


class Momentum(CosineShare):
    """The teacher's keep-rate: teacher <- momentum * teacher + (1 - momentum) * student."""

    KEEPS: ClassVar[bool] = True

    base: Share = 0.99
    """Keep-rate after the warm-up; 0 copies the student in each step, 1 freezes the teacher."""
    final: Share = 1.0


class TeacherNorm(NormOptions):
    """Whose batch-norm statistics the teacher uses in training.

    batch: those of a shard. sync: those of the whole batch. shuffle: those of a shard whose samples were drawn from the
    whole batch (MoCo's Shuffle BN). momentum: those of a shard, blended with their history (Momentum² Teacher). eman:
    averages of the student's running statistics, which do not depend on the batch.

    A student whose norms have no batch statistics (`encoder.norm`: layer, group, none) leaves no choice: `kind` stays
    batch, and the teacher has the student's norm, with averaged weights.
    """

    KINDS: ClassVar[tuple[str, ...]] = TEACHER_NORMS
    ELSEWHERE: ClassVar[str] = "has no batch statistics; with encoder.norm = {kind} the teacher has it too"

    kind: TeacherKind = "batch"
    """Whose statistics: those of the shard, the batch, a shuffled shard, or a shard and its history (Momentum BN); or
    averages of the student's.
    """
    warm_start: Duration = "0 steps"
    """How long eman copies the student's statistics at the beginning."""


class Preserving(Schedule):
    """Probability that a unit of the teacher is kept unchanged in a step."""

    base: Share = 0.7
    final: Share = 0.0
    factor: Factor = 0.1


class Smoothing(Section):
    """How a student enters the average: `tma` averages all units, `sts` averages a random part, `se` copies a random
    part.

    A unit is kept unchanged with preserving probability `p` (Spatial Ensemble, alg. 1-2). So with `se` the momentum is
    0, except in parts with a momentum of their own in `teacher.momenta`, where 1 freezes a part. `masks` and
    `first_copy` serve to study what the released code does.
    """

    SHORT: ClassVar[str] = "kind"

    kind: Literal["tma", "se", "sts"] = "tma"
    """tma averages all units, sts averages a random part of them, se copies a random part."""
    p: Preserving = Preserving()
    granularity: Literal["layer", "channel", "neuron"] = "layer"
    """What a unit is: a parameter tensor, an index of a tensor's first dimension, or a number."""
    coupled: bool = False
    """Whether a channel's weight, its bias and the norm behind it are kept together."""
    masks: Literal["shared", "per_worker"] = "shared"
    """Whether all workers draw the same units, or each its own, so that teachers drift apart."""
    first_copy: Literal["exact", "masked"] = "exact"
    """Whether the teacher begins as a copy of the student, or as another initialisation that a masked copy enters."""


def _placement(placed: Any) -> tuple[str, ...]:
    if not isinstance(placed, str | list | tuple):
        raise ValueError(f"must be one of {', '.join(PLACEMENTS)}, or a list of parts")
    wanted: list[str] = []
    for name in map(str, [placed] if isinstance(placed, str) else placed):
        if name not in PARTS and name not in PLACEMENTS:
            raise ValueError(f"no part is named '{name}'{nearest(name, (*PLACEMENTS, *PARTS))}")
        wanted += PLACEMENTS.get(name, (name,))
    return tuple(part for part in PARTS if part in wanted)


Placement = Annotated[
    tuple[str, ...], BeforeValidator(_placement), Field(json_schema_extra={"enum": [*PLACEMENTS, "a list of parts"]})
]


def _momentum_of_parts(momenta: Any) -> Any:
    """Returns the momenta with groups of parts, such as "projector", spelt out."""
    if not isinstance(momenta, Mapping):
        raise ValueError("must give a momentum for parts, such as {block4: 0.9}")
    # groups come first, so that a part's own momentum replaces its group's
    groups_first = sorted(momenta, key=lambda name: name not in PLACEMENTS)
    return {part: momenta[name] for name in groups_first for part in _placement(name)}


class Teacher(Section):
    """How the teacher is made from past students."""

    momentum: Momentum = Momentum()
    momenta: Annotated[dict[str, Momentum], BeforeValidator(_momentum_of_parts)] = Field(default_factory=dict)
    """Momentum of parts that have one of their own, such as {block4: 0.9}."""
    update: Literal["before", "after"] = "before"
    """When the student enters the average: before the forward pass, as the last step left it (Momentum² Teacher, alg.
    1), or after the optimiser's step.
    """
    smoothing: Smoothing = Smoothing()
    placement: Placement = PARTS
    """Parts with an averaged copy; the teacher shares all others with the student. Parts: conv1, block1 ... block4,
    fc1, fc2.
    """
    norm: TeacherNorm = TeacherNorm()

    def momentum_of(self, part: str | None = None) -> Momentum:
        """Returns the schedule of the keep-rate: a part's own if it has one, else that of all others.

        The others have 0 where `se` only copies.
        """
        if part in self.momenta:
            return self.momenta[part]
        return Momentum(kind="constant", base=0) if self.smoothing.kind == "se" else self.momentum

    @property
    def follow_the_batch(self) -> dict[str, Schedule]:
        """The schedules that the equivalence rule scales, by key: momentum, or p where units are copied."""
        # with `se`, a part with a momentum of its own has the share (1 - p)(1 - momentum), so it is enough to scale p
        if self.smoothing.kind == "se":
            return {"smoothing.p": self.smoothing.p}
        return {"momentum": self.momentum, **{f"momenta.{part}": own for part, own in self.momenta.items()}}

    @model_validator(mode="after")
    def _momenta_are_used(self) -> Self:
        if idle := [part for part in self.momenta if part not in self.placement]:
            raise ValueError(
                f"teacher.momenta: {idle[0]} has no averaged copy; "
                f"teacher.placement is {', '.join(self.placement) or 'none'}"
            )
        if not self.placement and (self.norm.kind != "batch" or self.smoothing.kind != "tma"):
            odd = (
                f"norm.kind = {self.norm.kind}"
                if self.norm.kind != "batch"
                else f"smoothing.kind = {self.smoothing.kind}"
            )
            raise ValueError(
                f"teacher.{odd}: with teacher.placement none the student is its own teacher, and nothing is averaged"
            )
        return self
