"""One file a method: a class with its options, the views that it looks at, its loss, and the state that it carries from step to step.

Configurations are validated with these files, so torch is imported where it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from trainables import schedules
from trainables.schedules import Length
from trainables.sections import Factor, Positive, Schedule, Section

if TYPE_CHECKING:
    from torch import Tensor

    from trainables.config import TrialConfig

State = dict[str, "Tensor"]


class Pass(NamedTuple):
    """What a loss looks at: `samples` of some shards, after their forwards.

    predictions: of the student, [its views, samples, D]; from its predictor where the method has one.
    projections: of the student, in front of the predictor.
    targets: of the teacher, [its views, samples, D], without gradient.
    averaged: whether the teacher has averaged parts; without, its targets are the student's own projections.
    state: of the method, as the last step left it.
    shards: how many there are; samples are ordered by shard.
    first: index in the batch of the first sample.
    gather: collective, with gradient: [V, samples, D] of this pass -> [V, batch, D]. Only where the method `looks_at_the_batch`.
    """

    predictions: Tensor
    projections: Tensor
    targets: Tensor
    averaged: bool
    state: State
    step: int
    run: Length
    shards: int
    first: int
    gather: Callable[[Tensor], Tensor]

    def at(self, schedule: Schedule) -> float:
        """Value of a schedule in this step."""
        return schedules.at(schedule, self.step, self.run)


class Temperature(Schedule):
    """What logits are divided by."""

    base: Positive
    factor: Factor = 0.1


class Method(Section):
    """Options of a method, and what it does with them; frozen, so what changes is in its `state`.

    VIEWS: of an image, that are made.
    WEAK: views that are only cropped and flipped.
    DEFAULTS: dotted keys of a trial that belong to the method, such as its head; the user has the last word.
    """

    name: str

    VIEWS: ClassVar[int] = 2
    WEAK: ClassVar[tuple[int, ...]] = ()
    DEFAULTS: ClassVar[dict[str, Any]] = {}

    @property
    def predictor(self) -> int | None:
        """Hidden width of the student's predictor, None where it has none."""
        return None

    @property
    def student_views(self) -> tuple[int, ...]:
        """The views that the student sees."""
        return tuple(range(self.VIEWS))

    @property
    def teacher_views(self) -> tuple[int, ...]:
        """The views that the teacher sees."""
        return tuple(range(self.VIEWS))

    @property
    def looks_at_the_batch(self) -> bool:
        """Whether a loss needs all samples of the batch at once: a worker then runs its shards in one pass."""
        return False

    def check(self, trial: TrialConfig) -> None:
        """Raises ValueError, "key = value: rule", for a trial that the method cannot be a part of."""

    def initial_state(self, width: int, seed: int) -> State:
        """State before the first step; `width` is D."""
        return {}

    def loss(self, given: Pass) -> Tensor:
        """Loss of each sample [samples]."""
        raise NotImplementedError

    def close(self, state: State, targets: Tensor, step: int, run: Length) -> None:
        """Brings the teacher's outputs [its views, batch, D] of a whole step into the state, in place. The same on every worker."""

    def frozen(self, step: int, run: Length) -> tuple[str, ...]:
        """Parts of the student that do not move in a step."""
        return ()

    def schedules(self) -> dict[str, Schedule]:
        """The options that follow the step, by name."""
        return {name: value for name in type(self).model_fields if isinstance(value := getattr(self, name), Schedule)}
