"""One file a method: a class with its options, the views that it looks at, its loss, and the state that it carries from step to step.

Configurations are validated with these files, so torch is imported where it is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from trainables.config import schedules
from trainables.config.schedules import Length
from trainables.config.sections import Count, Factor, Positive, Schedule, Section
from trainables.data.pieces import Piece, Sight

if TYPE_CHECKING:
    from torch import Tensor

    from trainables.config.trial import TrialConfig

State = dict[str, "Tensor"]
ViewKind = Literal["full", "weak", "strong", "local"]


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


class Method(Section):
    """Options of a method, and what it does with them; frozen, so what changes is in its `state`.

    A view is "full" (all augmentations), "weak" (cropped and flipped), "strong" (weak, then RandAugment), or "local" (a small crop, full).
    A sight is what shares norm statistics in a forward: some pieces, of a shard.

    VIEWS: of the images.
    LABELLED_VIEWS: of labelled images, which come besides, for methods that learn from labels.
    CLASSIFIES: whether the projector's outputs are logits of the classes; its width follows the data.
    DEFAULTS: dotted keys of a trial that belong to the method, such as its head; the user has the last word.
    """

    SHORT: ClassVar[str] = "name"

    name: str
    """The method."""

    VIEWS: ClassVar[tuple[ViewKind, ...]] = ("full", "full")
    LABELLED_VIEWS: ClassVar[tuple[ViewKind, ...]] = ()
    CLASSIFIES: ClassVar[bool] = False
    DEFAULTS: ClassVar[dict[str, Any]] = {}

    @property
    def predictor(self) -> int | None:
        """Hidden width of the student's predictor, None where it has none."""
        return None

    @property
    def views(self) -> tuple[ViewKind, ...]:
        """The views of an image that are made."""
        return self.VIEWS

    @property
    def student_sights(self) -> tuple[Sight, ...]:
        """What the student sees: each view for itself, unless a method says otherwise."""
        return sights(range(len(self.views)))

    @property
    def teacher_sights(self) -> tuple[Sight, ...]:
        """What the teacher sees, in pictures of one size."""
        return sights(range(len(self.views)))

    def labelled_in(self, shard_size: int) -> int:
        """Labelled images that come with a shard."""
        return 0

    @property
    def looks_at_the_batch(self) -> bool:
        """Whether a loss needs all samples of the batch at once: a worker then runs its shards in one pass."""
        return False

    def check(self, trial: TrialConfig) -> None:
        """Raises ValueError, "key = value: rule", for a trial that the method cannot be a part of."""

    def initial_state(self, width: int, seed: int) -> State:
        """State before the first step; `width` is D. What is floating takes the precision of the trial."""
        return {}

    def loss(self, given: Pass) -> Tensor:
        """Loss of each image, or of each shard: [n], ordered by shard."""
        raise NotImplementedError

    def close(self, state: State, targets: Tensor, step: int, run: Length) -> None:
        """Brings the teacher's outputs [its sights, batch, D] of a whole step into the state, in place. The same on every worker."""

    def frozen(self, step: int, run: Length) -> tuple[str, ...]:
        """Parts of the student that do not move in a step."""
        return ()

    def durations(self) -> dict[str, str]:
        """Durations that a run begins with, by option."""
        return {f"{name}.warmup": schedule.warmup for name, schedule in self._schedules().items()}

    def _schedules(self) -> dict[str, Schedule]:
        """The options that follow the step, by name."""
        return {name: value for name in type(self).model_fields if isinstance(value := getattr(self, name), Schedule)}


class QueueMethod(Method):
    """A method that compares with a `queue` of the teacher's past outputs, one for each of its sights."""

    queue: Count = 65_536
    """How many of the teacher's past outputs are compared with."""

    def check(self, trial: TrialConfig) -> None:
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

    def check(self, trial: TrialConfig) -> None:
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
