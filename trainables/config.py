"""TrialConfig: every knob of a trial, validated and frozen. The last place where values change. Needs no torch."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, Union

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from trainables import data_check, discovery, evaluation_config, presets, schedules
from trainables.data_config import Data
from trainables.data_config import Labels as Labels
from trainables.errors import UserError
from trainables.evaluation_config import Evaluation
from trainables.methods import Method
from trainables.sections import Count, LearningRate, NonNegative, Positive, Schedule, Section, Share
from trainables.settings import merged, validated, with_values
from trainables.teacher_config import PARTS, Teacher

WIDE = ("wrn28-2", "wrn28-8")  # Wide ResNets have no block4


METHODS = discovery.classes("methods", Method)
if TYPE_CHECKING:
    AnyMethod = Method
else:
    chosen = tuple(Annotated[kind, Tag(name)] for name, kind in METHODS.items())
    AnyMethod = Annotated[Union[chosen], Discriminator(lambda section: _name(section, "byol"))]  # noqa: UP007


class Head(Section):
    """Linear layers with a norm and an activation between them.

    norm: behind the "hidden" layers, behind "all" (SimSiam: the last without weights), or "none". With `prototypes` their output is put to
    unit length and compared with so many unit vectors (DINO); these are then the last layer.
    """

    layers: Count = 2
    hidden: Count = 4096
    out: Count = 256
    norm: Literal["hidden", "all", "none"] = "hidden"
    activation: Literal["relu", "gelu"] = "relu"
    prototypes: Annotated[int, Field(ge=0)] = 0

    @property
    def width(self) -> int:
        """Of what it returns."""
        return self.prototypes or self.out


class Encoder(Section):
    """A torchvision ResNet, or a Wide ResNet, in named parts, with a projector.

    `width` is the number of channels of conv1; standard are 64, and 16 of a Wide ResNet. `norm` is the student's: statistics of a shard, or
    of the whole batch (sync). The placement paper's extra norms: `feature_norm` (BN1) on the pooled features or on the map before the
    pooling, `output_norm` (BN2) on the projector's output.
    """

    name: Literal["resnet10", "resnet18", "resnet34", "resnet50", "wrn28-2", "wrn28-8"] = "resnet18"
    width: Count | None = None
    stem: Literal["small", "standard"] = "small"
    norm: Literal["batch", "sync"] = "batch"
    feature_norm: Literal["none", "pooled", "map"] = "none"
    projector: Head = Head()
    output_norm: bool = False

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of its parts, in order."""
        return tuple(part for part in PARTS if part != "block4" or self.name not in WIDE)


class RandAugment(Section):
    """Of strong views: so many operations, each at a level of 1, 2, ... below `magnitude` tenths of its range; then a grey square."""

    ops: Count = 2
    magnitude: Annotated[int, Field(ge=2, le=10)] = 10
    cutout: Share = 0.5


class Views(Section):
    """Augmentation of a view. `blur` and `solarise` have one probability for even views and one for odd ones; each data set has its own

    defaults. A crop is moved by up to a `shift` of the side, beyond the border too. Local views (multi-crop) are crops of `local_scale`,
    `local_size` pixels wide, or 96 of 224 and at least 8: with fewer a bf16 convolution of torch on a CPU is not to be trusted.
    """

    crop_scale: tuple[Share, Share] = (0.2, 1.0)
    crop_ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    shift: Share = 0.0
    local_scale: tuple[Share, Share] = (0.05, 0.4)
    local_size: Annotated[int, Field(ge=4)] | None = None
    turn: Annotated[float, Field(ge=0, le=180)] = 0.0
    flip: Share = 0.5
    jitter: Share = 0.8
    brightness: Share = 0.4
    contrast: Share = 0.4
    saturation: Share = 0.2
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    gray: Share = 0.2
    blur: tuple[Share, Share] = (0.0, 0.0)
    solarise: tuple[Share, Share] = (0.0, 0.2)
    noise: Annotated[float, Field(ge=0)] = 0.0
    randaugment: RandAugment = RandAugment()

    def local_side(self, side: int) -> int:
        """Width of the local views of images of a width."""
        return self.local_size or max(8, round(side * 96 / 224))

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for key in ("crop_scale", "crop_ratio", "local_scale"):
            low, high = getattr(self, key)
            if not 0 < low <= high:
                raise ValueError(f"views.{key} = [{low}, {high}]: must be two rising numbers above 0")
        return self


class WeightDecay(Schedule):
    """L2 decay of the student's parameters."""

    base: NonNegative = 1e-4
    final: NonNegative = 0.0


class Optim(Section):
    """Optimiser; SGD may be `nesterov`.

    LARS scales by `trust`, to no more than the learning rate with `clip`, and leaves norm parameters and biases unscaled and undecayed.
    With `lr_in_buffer` its momentum buffer sums steps (You et al. 2017; the released code of Momentum² Teacher and of EMAN). Without,
    it sums gradients, which the current learning rate multiplies (solo-learn), as SGD's always does. They differ while the rate changes.
    With `constant_predictor` the predictor's learning rate is `lr.base` throughout (SimSiam).
    """

    name: Literal["sgd", "lars"] = "sgd"
    lr: LearningRate = LearningRate()
    momentum: Share = 0.9
    weight_decay: WeightDecay = WeightDecay()
    trust: Positive = 1e-3
    clip: bool = False
    lr_in_buffer: bool = True
    nesterov: bool = False
    constant_predictor: bool = False

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> Self:
        if self.nesterov and (self.name != "sgd" or not self.momentum):
            raise ValueError(
                f"optim.nesterov = true: is SGD's, with a momentum above 0; optim.name = {self.name}, optim.momentum = {self.momentum}"
            )
        return self


class OnlineProbe(Section):
    """A linear classifier of the student's features, trained beside it without touching it, by its optimiser; with `lr` 0 there is none.

    `lr` is absolute, and follows the schedule of `optim.lr`. Its score is `online_top1`.
    """

    lr: NonNegative = 0.0


class Train(Section):
    """Length, batch and arithmetic. The batch is `num_shards` shards of `shard_size` samples that share batch-norm statistics.

    With `exact` a worker runs its shards one after another and gradients are summed in float64: in fp32 the trial is then the same to
    the last bit on any number of workers of one kind. Without, a worker runs all its shards in one pass, which is faster where shards
    are small; so it does where shards look at each other (norms `sync` and `shuffle`, SimCLR's batch).

    With `base_batch` the equivalence rule applies: learning rate and teacher momentum are those of a batch of that size, and follow the
    batch (trainables.equivalence).
    """

    epochs: Annotated[int, Field(ge=0)] = 10
    batch_size: Count = 64
    base_batch: Count | None = None
    shard_size: Annotated[int, Field(ge=2)] = 32
    precision: Literal["fp32", "bf16", "fp64"] = "fp32"
    exact: bool = True
    channels_last: bool = True
    checkpoint_steps: Count | None = None
    keep_checkpoints: Count = 2

    @property
    def num_shards(self) -> int:
        return self.batch_size // self.shard_size

    @model_validator(mode="after")
    def _whole_shards(self) -> Self:
        if self.batch_size % self.shard_size:
            raise ValueError(f"train.batch_size = {self.batch_size}: must be a multiple of train.shard_size = {self.shard_size}")
        return self


Monitor = Literal["distance", "statistics", "embedding", "gradients", "drift", "filters"]
Monitors = Annotated[tuple[Monitor, ...], AfterValidator(lambda names: tuple(dict.fromkeys(names)))]  # each once


class TrialConfig(Section):
    """Everything that a trial is a function of, besides its data. A `preset` fills in a paper's recipe for the method."""

    preset: Annotated[str, AfterValidator(presets.known)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
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
        if data in discovery.names("datasets"):
            under["views"] = {**under.get("views", {}), **discovery.load("datasets", data).VIEWS}
        for recipe in presets.recipe(given.get("preset"), method) if method in METHODS else []:
            under = merged(under, recipe, cls)
        return merged(under, given, cls)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.preset and self.method.name not in (own := presets.methods(self.preset)):
            raise ValueError(f"preset.{self.preset}: has no recipe for method.name = {self.method.name}; it has {', '.join(own)}")
        self.method.check(self)
        epochs = schedules.Length(self.train.epochs, 1)
        for key, warmup in self.warmups().items():  # those in steps wait until the data are known
            if self.train.epochs and "step" not in warmup and schedules.steps_in(warmup, epochs) > self.train.epochs:
                raise ValueError(f"{key} = {warmup}: must not exceed train.epochs = {self.train.epochs}")
        placed = (*self.teacher.placement, *self.teacher.momenta)
        if "block4" not in self.encoder.parts and "block4" in placed and "block3" not in placed:  # groups of parts have both
            raise ValueError(f"teacher.placement: '{self.encoder.name}' has no block4")
        if self.teacher.smoothing.masks == "per_worker" and self.evaluation.network == "teacher":
            raise ValueError(
                "evaluation.network = teacher: with teacher.smoothing.masks = per_worker there is more than one; score the student"
            )
        for key, schedule in self.teacher.follow_the_batch.items():
            if self.train.base_batch and not schedule.scales:
                told = f"{schedule.kind} with a warm-up of {schedule.warmup}" if schedule.warms_up else schedule.kind
                raise ValueError(f"teacher.{key} = {told}: with train.base_batch it must be constant, cosine or linear, without a warm-up")
        if reason := self.evaluation.unfit(self):
            raise ValueError(f"evaluation.protocols: {reason}")
        if self.evaluation.before_feature_norm and self.encoder.feature_norm == "none":
            raise ValueError("evaluation.before_feature_norm: the encoder has none; set encoder.feature_norm to pooled or map")
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
        return data_check.training_images(self.data, bool(self.method.LABELLED_VIEWS) or any(judge.LABELS for judge in judges))

    def check_length(self, images: int) -> None:
        """Raises `UserError` where so many training images are less than one batch, or their epochs shorter than a warm-up."""
        self.require_batch(images)
        length(self, images)

    def require_batch(self, images: int) -> None:
        """Raises `UserError` where so many training images are less than one batch."""
        if images < self.train.batch_size:
            raise UserError(f"train.batch_size = {self.train.batch_size}: there are only {images} training images")


def _name(section: Any, default: str) -> Any:
    """The name that a section is given, as nested values or as itself."""
    return section.get("name", default) if isinstance(section, Mapping) else getattr(section, "name", default)


def parse(given: Mapping[str, Any]) -> TrialConfig:
    """Validates nested values.

    Raises:
        UserError: a line for each fault, with key, value, rule and the nearest valid name.
    """
    return validated(TrialConfig, given)


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
            raise UserError(f"{key} = {warmup}: must not exceed the run, which has {run.total} steps")
    return run
