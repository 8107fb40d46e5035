"""TrialConfig: every knob of a trial, validated and frozen. The last place where values change. Needs no torch."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, Union

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from trainables.config import discovery, presets, schedules
from trainables.config import evaluation as evaluation_config
from trainables.config.data import DATA_SETS, Data
from trainables.config.data import Labels as Labels
from trainables.config.encoder import WIDE as WIDE
from trainables.config.encoder import Encoder, Views
from trainables.config.encoder import Head as Head
from trainables.config.encoder import RandAugment as RandAugment
from trainables.config.errors import UserError, shown, shown_name
from trainables.config.evaluation import Evaluation
from trainables.config.sections import (
    MOST,
    MOST_EPOCHS,
    Count,
    LearningRate,
    NonNegative,
    Positive,
    Schedule,
    Section,
    Seed,
    Share,
)
from trainables.config.settings import flat, merged, validated, with_values
from trainables.config.teacher import PARTS as PARTS
from trainables.config.teacher import Teacher
from trainables.data import check as data_check
from trainables.learning.methods.base import Method

METHODS = discovery.classes("learning.methods", Method)
if TYPE_CHECKING:
    AnyMethod = Method
else:
    chosen = tuple(Annotated[kind, Tag(name)] for name, kind in METHODS.items())
    AnyMethod = Annotated[Union[chosen], Discriminator(lambda section: _name(section, "byol"))]  # noqa: UP007


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
    """Of the optimiser, not of the teacher."""
    weight_decay: WeightDecay = WeightDecay()
    trust: Positive = 1e-3
    """LARS's coefficient: what the length of a weight over that of its gradient is multiplied by."""
    clip: bool = False
    """Whether LARS moves no parameter faster than the plain gradient would."""
    lr_in_buffer: bool = True
    """Whether LARS's momentum sums steps, or gradients that the current rate multiplies; they differ while the rate changes.

    Steps: You et al. 2017, and the released code of Momentum² Teacher and of EMAN. Gradients: solo-learn, and SGD always.
    """
    nesterov: bool = False
    """Whether SGD's momentum is Nesterov's."""
    constant_predictor: bool = False
    """Whether the predictor's learning rate is lr.base throughout (SimSiam)."""

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> Self:
        if self.nesterov and (self.name != "sgd" or not self.momentum):
            raise ValueError(
                f"optim.nesterov = true: is SGD's, with a momentum above 0; optim.name = {self.name}, optim.momentum = {self.momentum}"
            )
        return self


class OnlineProbe(Section):
    """A linear classifier of the student's features, trained beside it without touching it, by its optimiser.

    Its score is `online_top1`.
    """

    SHORT: ClassVar[str] = "lr"

    lr: NonNegative = 0.0
    """Its learning rate, which follows the schedule of optim.lr; 0: there is none."""


class Train(Section):
    """Length, batch and arithmetic. The batch is `num_shards` shards of `shard_size` samples that share batch-norm statistics.

    With `exact` a worker runs its shards one after another and gradients are summed in float64: in fp32 the trial is then the same to
    the last bit on any number of workers of one kind. Without, a worker runs all its shards in one pass, which is faster where shards
    are small; so it does where shards look at each other (norms `sync` and `shuffle`, SimCLR's batch).

    With `base_batch` the equivalence rule applies: learning rate and teacher momentum are those of a batch of that size, and follow the
    batch (trainables.config.equivalence).
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
    """Whether shards go one by one and gradients are summed in float64, so that the number of workers changes no bit."""
    channels_last: bool = True
    """Whether images lie in memory with their channels last, which is faster."""
    checkpoint_steps: Count | None = None
    """Steps between checkpoints within an epoch; there is one after each epoch in any case."""
    keep_checkpoints: Count = 2
    """How many checkpoints are kept."""

    @property
    def num_shards(self) -> int:
        return self.batch_size // self.shard_size

    @model_validator(mode="after")
    def _whole_shards(self) -> Self:
        if self.batch_size % self.shard_size:
            fits = max(1, round(self.batch_size / self.shard_size)) * self.shard_size
            rule = f"must be a multiple of train.shard_size = {self.shard_size}, such as {fits}"
            raise ValueError(f"train.batch_size = {self.batch_size}: {rule}")
        return self


Monitor = Literal["distance", "statistics", "embedding", "gradients", "drift", "filters"]
Monitors = Annotated[tuple[Monitor, ...], AfterValidator(lambda names: tuple(dict.fromkeys(names)))]  # each once


class TrialConfig(Section):
    """Everything that a trial is a function of, besides its data. A `preset` fills in a paper's recipe for the method."""

    preset: Annotated[str, AfterValidator(presets.known), Field(json_schema_extra={"enum": presets.names()})] | None = (
        None
    )
    """A paper's recipe for the method; what is set beside it counts above it."""
    seed: Seed = 0
    """Of the first student, the order of images, views and masks."""
    method: AnyMethod = METHODS["byol"](name="byol")
    data: Data = Data()
    views: Views = Views()
    encoder: Encoder = Encoder()
    teacher: Teacher = Teacher()
    optim: Optim = Optim()
    online_probe: OnlineProbe = OnlineProbe()
    train: Train = Train()
    evaluation: Evaluation = Evaluation()
    monitors: Monitors = ("distance", "statistics", "embedding")
    """What is measured after each epoch for TensorBoard, beside the scores."""

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, given: Any) -> Any:
        """Fills in what belongs to the method, such as its head, and the views that suit the data set, where the user gave nothing."""
        if not isinstance(given, Mapping):
            return given
        data, method = _name(given.get("data"), "digits"), _name(given.get("method"), "byol")
        under: dict[str, Any] = {"method": {"name": method}}
        if method in METHODS:
            own = METHODS[method](name=method)
            under = with_values({"method": own.model_dump(mode="json")}, own.DEFAULTS, cls)
        if data in DATA_SETS:
            under["views"] = {**under.get("views", {}), **discovery.load("data.sets", data).VIEWS}
        return merged(merged(under, _recipe(given, method), cls), given, cls)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.preset and self.method.name not in (own := presets.methods(self.preset)):
            raise ValueError(
                f"preset.{self.preset}: has no recipe for method.name = {self.method.name}; it has {', '.join(own)}"
            )
        self.method.check(self)
        epochs = schedules.Length(self.train.epochs, 1)
        for key, warmup in self.warmups().items():  # those in steps wait until the data are known
            if self.train.epochs and "step" not in warmup and schedules.steps_in(warmup, epochs) > self.train.epochs:
                raise ValueError(f"{key} = {warmup}: must not exceed train.epochs = {self.train.epochs}")
        placed = (*self.teacher.placement, *self.teacher.momenta)
        if (
            "block4" not in self.encoder.parts and "block4" in placed and "block3" not in placed
        ):  # groups of parts have both
            raise ValueError(f"teacher.placement: '{self.encoder.name}' has no block4")
        if self.teacher.smoothing.masks == "per_worker" and self.evaluation.network == "teacher":
            raise ValueError(
                "evaluation.network = teacher: with teacher.smoothing.masks = per_worker there is more than one; score the student"
            )
        for key, schedule in self.teacher.follow_the_batch.items():
            if self.train.base_batch and not schedule.scales:
                told = f"{schedule.kind} with a warm-up of {schedule.warmup}" if schedule.warms_up else schedule.kind
                raise ValueError(
                    f"teacher.{key} = {told}: with train.base_batch it must be constant, cosine or linear, without a warm-up"
                )
        if reason := self.evaluation.unfit(self):
            raise ValueError(f"evaluation.protocols: {reason}")
        if self.evaluation.before_feature_norm and self.encoder.feature_norm == "none":
            raise ValueError(
                "evaluation.before_feature_norm: the encoder has none; set encoder.feature_norm to pooled or map"
            )
        if self.encoder.stem == "standard" and self.encoder.name in WIDE:
            raise ValueError(f"encoder.stem = standard: '{self.encoder.name}' is for small images")
        head = self.encoder.projector
        if "filters" in self.monitors and (head.hidden != 2 or head.layers == 1 or head.prototypes):
            rule = f"so encoder.projector.hidden = {head.hidden} must be 2, with layers = {head.layers} at least 2 and without prototypes"
            raise ValueError(f"monitors: filters are points in a plane, {rule}")
        if self.teacher.placement == ("fc1",) and head.layers == 1 and not head.prototypes:
            raise ValueError("teacher.placement: a projector of one layer is fc2 alone, so nothing would be averaged")
        return self

    def warmups(self) -> dict[str, str]:
        """Every duration that a run begins with, by key."""
        teacher = self.teacher
        followed = {
            "optim.lr": self.optim.lr,
            "optim.weight_decay": self.optim.weight_decay,
            "teacher.momentum": teacher.momentum,
            "teacher.smoothing.p": teacher.smoothing.p,
            "teacher.norm.alpha": teacher.norm.alpha,
            **{f"teacher.momenta.{part}": own for part, own in teacher.momenta.items()},
        }
        return {f"{key}.warmup": schedule.warmup for key, schedule in followed.items()} | {
            "teacher.norm.warm_start": teacher.norm.warm_start,
            **{f"method.{name}": duration for name, duration in self.method.durations().items()},
        }

    @property
    def joint(self) -> bool:
        """Whether a worker runs all its shards in one pass."""
        return (
            not self.train.exact
            or self.method.looks_at_the_batch
            or self.encoder.norm == "sync"
            or self.teacher.norm.kind in ("sync", "shuffle")
        )

    def plain(self) -> dict[str, Any]:
        """The configuration as nested plain values, ready for YAML and JSON; `parse` gives it back."""
        return self.model_dump(mode="json")

    def check_data(self) -> None:
        """Raises `UserError` where the data is missing, at fault or too little, as far as a look of seconds shows (`data_check`)."""
        self.check_length(self.training_images())

    def training_images(self) -> int:
        """How many there are. Raises `UserError` where the data is missing, at fault, or less than is asked for (`data_check`)."""
        judges = (evaluation_config.PROTOCOLS[name] for name in self.evaluation.protocols)
        return data_check.training_images(
            self.data, bool(self.method.LABELLED_VIEWS) or any(judge.LABELS for judge in judges)
        )

    def check_length(self, images: int) -> None:
        """Raises `UserError` where so many training images are less than one batch, or their epochs shorter than a warm-up."""
        self.require_batch(images)
        length(self, images)

    def require_batch(self, images: int) -> None:
        """Raises `UserError` where so many training images are less than one batch."""
        train = self.train
        if images < train.batch_size:
            fits = images // train.shard_size * train.shard_size
            advice = (
                f"{fits} fits"
                if fits
                else f"with train.shard_size = {train.shard_size} no batch fits, so set a smaller one too"
            )
            raise UserError(
                _told(
                    f"train.batch_size = {train.batch_size}: there are only {images} training images; {advice}",
                    self.plain(),
                )
            )


def _name(section: Any, default: str) -> str:
    """The name that a section is given, as nested values, as a model or as a name alone."""
    if section is None:
        return default
    name = section.get("name", default) if isinstance(section, Mapping) else getattr(section, "name", section)
    return name if isinstance(name, str) else shown(name)


def _recipe(given: Mapping[str, Any], method: str) -> dict[str, Any]:
    """What the preset says of the method, for a run of the length that is given; nothing where there is no preset."""
    recipe: dict[str, Any] = {}
    for layer in presets.recipe(given.get("preset"), method) if method in METHODS else []:
        recipe = merged(recipe, layer, TrialConfig)
    paper, train = recipe.get("train", {}).get("epochs"), given.get("train")
    epochs = train.get("epochs") if isinstance(train, Mapping) else None
    return presets.shortened(recipe, paper) if paper and isinstance(epochs, int) and epochs < paper else recipe


def told(error: UserError, given: Any) -> str:
    """The lines of an error, with the keys that a trial has from its preset or its method, and not from the user.

    Args:
        error: whose lines name keys.
        given: nested values of the trial, as the user gave them.
    """
    return "\n".join(_told(line, given) for line in str(error).splitlines())


def _told(line: str, given: Any) -> str:
    if not isinstance(given, Mapping) or (method := _name(given.get("method"), "byol")) not in METHODS:
        return line
    recipe, own = _recipe(given, method), with_values({}, METHODS[method].DEFAULTS, TrialConfig)
    sources = {f"method {method}": flat(own), f"preset {shown_name(given.get('preset'))}": flat(recipe)}
    resolved, origins = flat(merged(merged(own, recipe, TrialConfig), given, TrialConfig)), {}
    for key in re.findall(r"(?<![\w.])(?:trial\.)?([a-z_]+(?:\.[a-z_0-9]+)+) = ", line):
        for source, values in sources.items():
            if key in values and resolved.get(key) == values[key]:
                origins[key] = f"{source} sets {key} = {shown(values[key])}"
    return f"{line} ({'; '.join(origins.values())}; set it yourself to change it)" if origins else line


def parse(given: Mapping[str, Any]) -> TrialConfig:
    """Validates nested values.

    Raises:
        UserError: a line for each fault, with key, value, rule and the nearest valid name.
    """
    try:
        return validated(TrialConfig, given)
    except UserError as error:
        raise UserError(told(error, given)) from None


def changed(nested: Mapping[str, Any], values: Mapping[str, Any]) -> TrialConfig:
    """The trial of nested values in which each dotted key of `values` is set.

    Raises:
        UserError: a line for each fault, with key, value, rule and the nearest valid name.
    """
    return parse(with_values(nested, values, TrialConfig))


def length(config: TrialConfig, images: int) -> schedules.Length:
    """Length of the run for a train split of `images` images. The last partial batch of an epoch is dropped.

    Raises:
        UserError: a warm-up is longer.
    """
    per_epoch = images // config.train.batch_size
    run = schedules.Length(per_epoch * config.train.epochs, per_epoch)
    for key, warmup in config.warmups().items():
        if run.total and schedules.steps_in(warmup, run) > run.total:
            raise UserError(
                _told(f"{key} = {warmup}: must not exceed the run, which has {run.total} steps", config.plain())
            )
    return run
