"""Base classes of methods. A method is one file with one class: its options, views, loss, and state between steps.

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
    """What a loss is computed from: the outputs for `samples` of some shards.

    Attributes:
        predictions: of the student, [sights, samples, D]; from its predictor if the method has one.
        targets: of the teacher, [sights, samples, D], without gradient.
        averaged: whether the teacher has averaged parts. If not, its targets are the student's own projections.
        state: of the method, as the last step left it.
        step: index of the step, from 0.
        run: length of the run.
        shards: how many shards there are; samples are ordered by shard.
        first: index in the batch of the first image.
        labels: int64 [labelled], of the labelled images, ordered by shard; None where the method asks for none.
        gather: [V, samples, D] of this pass -> [V, batch, D], collective and with gradient. Only for methods that
            `looks_at_the_batch`.
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
        """Returns the value of a schedule in this step."""
        return schedules.at(schedule, self.step, self.run)


class Temperature(Schedule):
    """The divisor of logits."""

    base: Positive
    final: Positive = 0.1
    factor: Factor = 0.1


class Method(MethodOptions):
    """Options of a method, and what it does with them. Options are frozen; only its `state` changes between steps.

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
    def loss(self, outputs: Pass) -> Tensor:
        """Returns the loss of each image, or of each shard: [n], ordered by shard."""

    def close(self, state: State, targets: Tensor, step: int, run: Length) -> None:
        """Updates the state in place from the teacher's outputs [its sights, batch, D]. The same on every worker."""

    def frozen(self, step: int, run: Length) -> tuple[str, ...]:
        """Returns the parts of the student that do not move in a step."""
        return ()


class QueueMethod(Method):
    """A method with a `queue` of the teacher's past outputs for each of the teacher's sights."""

    queue: Count = 65_536
    """How many of the teacher's past outputs a queue holds."""

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
    """A method that learns a classifier. A shard has one labelled image for every `images_per_label` images."""

    images_per_label: Count
    """Images for each labelled image; it divides train.shard_size."""

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
    """Returns a sight for each of some views of the images."""
    return tuple((Piece("images", view),) for view in views)
