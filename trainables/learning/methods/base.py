"""One file a method: a class with its options, the views that it looks at, its loss, and the state that it carries from step to step.

Configurations are validated with these files, so torch is imported where it is used.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from trainables.config import schedules
from trainables.config.base import MethodOptions, Trial
from trainables.config.durations import Length
from trainables.config.sections import Count, Factor, Positive, Schedule
from trainables.data.pieces import Piece, Sight

if TYPE_CHECKING:
    from torch import Tensor

State = dict[str, "Tensor"]


class Pass(NamedTuple):
    """What a loss looks at: `samples` of some shards, after their forwards.

    predictions: of the student, [sights, samples, D], for each of its sights; from its predictor where the method has one.
    targets: of the teacher, for each of its sights, without gradient.
    averaged: whether the teacher has averaged parts; without, its targets are the student's own projections.
    state: of the method, as the last step left it.
    shards: how many there are; samples are ordered by shard.
    first: index in the batch of the first image.
    labels: of the labelled images, ordered by shard: int64 [labelled]; None where the method does not ask for them.
    gather: collective, with gradient: [V, samples, D] of this pass -> [V, batch, D]. Only where the method `looks_at_the_batch`.
    """

    predictions: Tensor
    targets: Tensor
    averaged: bool
    state: State
    step: int
    run: Length
    shards: int
    first: int
    labels: Tensor | None
    gather: Callable[[Tensor], Tensor]

    def at(self, schedule: Schedule) -> float:
        """Value of a schedule in this step."""
        return schedules.at(schedule, self.step, self.run)


class Temperature(Schedule):
    """What logits are divided by."""

    base: Positive
    final: Positive = 0.1
    factor: Factor = 0.1


class Method(MethodOptions):
    """Options of a method, and what it does with them. Options are frozen; what changes from step to step is its `state`.

    A sight is what goes through a network together: some pieces of a shard, which share norm statistics.
    """

    @property
    def student_sights(self) -> tuple[Sight, ...]:
        """What the student sees: each view by itself, unless a method says otherwise."""
        return sights(range(len(self.views)))

    @property
    def teacher_sights(self) -> tuple[Sight, ...]:
        """What the teacher sees. All its pictures have one size."""
        return sights(range(len(self.views)))

    def initial_state(self, width: int, seed: int) -> State:
        """Returns the state before the first step; `width` is D. Floating tensors take the precision of the trial."""
        return {}

    @abstractmethod
    def loss(self, given: Pass) -> Tensor:
        """Returns the loss of each image, or of each shard: [n], ordered by shard."""

    def close(self, state: State, targets: Tensor, step: int, run: Length) -> None:
        """Brings the teacher's outputs [its sights, batch, D] of a step into the state, in place. The same on every worker."""

    def frozen(self, step: int, run: Length) -> tuple[str, ...]:
        """Returns the parts of the student that do not move in a step."""
        return ()


class QueueMethod(Method):
    """A method that compares with a `queue` of the teacher's past outputs, one for each of its sights."""

    queue: Count = 65_536
    """How many of the teacher's past outputs are compared with."""

    def check(self, trial: Trial) -> None:
        if self.queue < trial.train.batch_size:
            raise ValueError(
                f"method.queue = {self.queue}: must hold a batch of train.batch_size = {trial.train.batch_size}"
            )

    def initial_state(self, width: int, seed: int) -> State:
        from trainables.learning import queue

        return queue.initial(len(self.teacher_sights), self.queue, width, seed)

    def close(self, state: State, targets: Tensor, step: int, run: Length) -> None:
        import torch.nn.functional as F

        from trainables.learning import queue

        queue.enqueue(state, F.normalize(targets, dim=-1))


class LabelledMethod(Method):
    """A method that learns a classifier: of a shard, there is a labelled image for so many images."""

    images_per_label: Count
    """Images for each labelled one; divides train.shard_size."""

    CLASSIFIES: ClassVar[bool] = True

    def labelled_in(self, shard_size: int) -> int:
        return shard_size // self.images_per_label

    def check(self, trial: Trial) -> None:
        size = trial.train.shard_size
        if size % self.images_per_label:
            divisors = {divisor for n in range(1, math.isqrt(size) + 1) if size % n == 0 for divisor in (n, size // n)}
            fitting = min(divisors, key=lambda n: (abs(n - self.images_per_label), n))
            rule = (
                f"must divide train.shard_size = {size}, so that each shard has whole labelled images; {fitting} does"
            )
            raise ValueError(f"method.images_per_label = {self.images_per_label}: {rule}")
        if prototypes := trial.encoder.projector.prototypes:
            raise ValueError(
                f"encoder.projector.prototypes = {prototypes}: {self.name} compares classes, not prototypes"
            )


def sights(views: Iterable[int]) -> tuple[Sight, ...]:
    """Views of the images, each for itself."""
    return tuple((Piece("images", view),) for view in views)
