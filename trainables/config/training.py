"""How a student is trained: the sections `optim`, `online_probe` and `train` of a TrialConfig. Needs no torch."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from trainables.config.errors import UserError
from trainables.config.sections import (
    MOST,
    MOST_EPOCHS,
    Count,
    LearningRate,
    NonNegative,
    Positive,
    Schedule,
    Section,
    Share,
)


class WeightDecay(Schedule):
    """L2 decay of the student's parameters."""

    base: NonNegative = 1e-4
    final: NonNegative = 0.0


class Optim(Section):
    """Optimiser. LARS leaves norm parameters and biases unscaled and undecayed."""

    SHORT: ClassVar[str] = "name"

    name: Literal["sgd", "lars"] = "sgd"
    """The optimiser."""
    lr: LearningRate = LearningRate()
    momentum: Share = 0.9
    """Momentum of the optimiser, not of the teacher."""
    weight_decay: WeightDecay = WeightDecay()
    trust: Positive = 1e-3
    """LARS's trust coefficient: it multiplies the norm of a weight over the norm of its gradient."""
    clip: bool = False
    """Whether LARS moves no parameter faster than the plain gradient would."""
    lr_in_buffer: bool = True
    """Whether LARS's momentum sums steps, or sums gradients and multiplies by the current rate. The two differ while
    the rate changes.

    Steps: You et al. 2017, and the released code of Momentum² Teacher and EMAN. Gradients: solo-learn, and SGD always.
    """
    nesterov: bool = False
    """Whether SGD's momentum is Nesterov's."""
    constant_predictor: bool = False
    """Whether the predictor's learning rate is lr.base throughout (SimSiam)."""

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> Self:
        if self.nesterov and (self.name != "sgd" or not self.momentum):
            has = f"optim.name = {self.name}, optim.momentum = {self.momentum}"
            raise ValueError(f"optim.nesterov = true: is SGD's, with a momentum above 0; {has}")
        return self


class OnlineProbe(Section):
    """A linear classifier of the student's features, trained beside it without touching it, by its optimiser.

    Its score is `online_top1`.
    """

    SHORT: ClassVar[str] = "lr"

    lr: NonNegative = 0.0
    """The probe's learning rate, which follows the schedule of optim.lr; 0: there is no probe."""


class Train(Section):
    """Length, batch and arithmetic. A batch is `num_shards` shards; the `shard_size` samples of a shard share
    statistics.

    With `exact`, a worker runs its shards one after another, and gradients are summed in float64: in fp32 the trial is
    then the same to the last bit on any number of workers of one kind. Without, a worker runs all its shards in one
    pass, which is faster where shards are small. It also does so where shards depend on each other (norms `sync` and
    `shuffle`, SimCLR's batch).

    With `base_batch`, the equivalence rule applies: learning rate and teacher momentum are those of a batch of that
    size, and follow the batch (trainables.config.equivalence).
    """

    epochs: Annotated[int, Field(ge=0, le=MOST_EPOCHS)] = 10
    """Length of a trial."""
    batch_size: Count = 64
    """Samples of a step on all workers; whole shards."""
    base_batch: Count | None = None
    """The batch that learning rate and momentum are written for; they follow batch_size by the equivalence rule."""
    shard_size: Annotated[int, Field(ge=2, le=MOST)] = 32
    """Samples that share batch-norm statistics."""
    precision: Literal["fp32", "bf16", "fp64"] = "fp32"
    """Arithmetic of the networks."""
    exact: bool = True
    """Whether shards run one by one, with gradients summed in float64: the number of workers then changes no bit."""
    channels_last: bool = True
    """Whether images lie in memory with their channels last, which is faster."""
    checkpoint_steps: Count | None = None
    """Steps between checkpoints within an epoch; there is one after each epoch in any case."""
    checkpoint_minutes: Positive | None = 1.0
    """Minutes between checkpoints by time, which are written while the trial trains on; null: none."""
    keep_checkpoints: Count = 2
    """How many checkpoints of epochs are kept. The newest one by time is kept beside them until an epoch is newer."""

    @property
    def num_shards(self) -> int:
        return self.batch_size // self.shard_size

    def require_shards(self, workers: int, stated: str) -> None:
        """Refuses more workers than there are shards to deal to them.

        Args:
            workers: of a trial.
            stated: how the user states their number, such as "resources.workers = 3".

        Raises:
            UserError: there are more.
        """
        if workers > self.num_shards:
            batch = f"train.batch_size {self.batch_size} / train.shard_size {self.shard_size}"
            raise UserError(f"{stated}: more than the {self.num_shards} shards of a batch ({batch})")

    @model_validator(mode="after")
    def _whole_shards(self) -> Self:
        if self.batch_size % self.shard_size:
            fits = max(1, round(self.batch_size / self.shard_size)) * self.shard_size
            rule = f"must be a multiple of train.shard_size = {self.shard_size}, such as {fits}"
            raise ValueError(f"train.batch_size = {self.batch_size}: {rule}")
        return self
