"""TrialConfig: every knob of a trial, validated and frozen. The last place where values change. Needs no torch."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from trainables import discovery, schedules
from trainables.errors import UserError, nearest
from trainables.settings import validated, with_values

PARTS = ("conv1", "block1", "block2", "block3", "block4", "projector")
PLACEMENTS = {"whole": PARTS, "backbone": PARTS[:-1], "projector": ("projector",), "none": ()}

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


def one_of(package: str) -> AfterValidator:
    """A validator for the name of a module in `trainables.<package>`."""

    def check(name: str) -> str:
        if name not in discovery.names(package):
            raise ValueError(f"no such name{nearest(name, discovery.names(package))}")
        return name

    return AfterValidator(check)


class Section(BaseModel):
    """A frozen group of keys that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and info.field_name and cls.model_fields[info.field_name].annotation is not bool:
            raise ValueError("must not be true or false")
        return value


class Momentum(Section):
    """The teacher's keep-rate: teacher <- momentum * teacher + (1 - momentum) * student."""

    kind: Literal["constant", "cosine", "linear"] = "cosine"
    base: Share = 0.99
    final: Share = 1.0


class Alpha(Section):
    """Share of the current batch in Momentum BN's statistics (Momentum² Teacher, eq. 3 and 8)."""

    kind: Literal["constant", "cosine", "linear"] = "cosine"
    base: Share = 1.0
    final: Share = 0.0


class TeacherNorm(Section):
    """Whose batch-norm statistics the teacher uses."""

    kind: Literal["batch", "momentum", "eman"] = "batch"
    alpha: Alpha = Alpha()


class Smoothing(Section):
    """How a student enters the average: `tma` averages everything, `sts` a random part of the units, `se` copies a random part.

    A unit is kept unchanged with preserving probability `p` (Spatial Ensemble, alg. 1-2); a "layer" is one parameter tensor.
    """

    kind: Literal["tma", "se", "sts"] = "tma"
    p: Share = 0.7
    granularity: Literal["layer"] = "layer"


def _placement(placed: Any) -> tuple[str, ...]:
    if not isinstance(placed, str | list | tuple):
        raise ValueError(f"must be one of {', '.join(PLACEMENTS)}, or a list of parts")
    wanted = PLACEMENTS.get(placed, (placed,)) if isinstance(placed, str) else placed
    for name in map(str, wanted):
        if name not in PARTS:
            known = PARTS if not isinstance(placed, str) else (*PLACEMENTS, *PARTS)
            raise ValueError(f"no part is named '{name}'{nearest(name, known)}")
    return tuple(part for part in PARTS if part in wanted)


class Teacher(Section):
    """How the teacher is made from past students."""

    momentum: Momentum = Momentum()
    smoothing: Smoothing = Smoothing()
    placement: Annotated[tuple[str, ...], BeforeValidator(_placement)] = PARTS
    norm: TeacherNorm = TeacherNorm()


class Head(Section):
    """Linear, norm, ReLU, Linear."""

    hidden: Count = 4096
    out: Count = 256


class Encoder(Section):
    """A torchvision ResNet in named parts, with a projector. `width` is the number of channels of conv1 (64 is standard)."""

    name: Literal["resnet18", "resnet34", "resnet50"] = "resnet18"
    width: Count = 64
    stem: Literal["small", "standard"] = "small"
    projector: Head = Head()


class Method(Section):
    """The method of self-supervision and the predictor that some of them put on the student."""

    name: Annotated[str, one_of("methods")] = "byol"
    predictor_hidden: Count = 4096


class Data(Section):
    """Images and their splits. Scores come from `validation`, carved out of train; test images are for `evaluate` only."""

    name: Annotated[str, one_of("datasets")] = "digits"
    root: Annotated[Path, AfterValidator(Path.expanduser)] | None = None
    download: bool = False
    train_images: Count | None = None
    validation_images: Count | None = None
    image_size: Annotated[int, Field(ge=4)] | None = None
    split_seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _needs_root(self) -> Self:
        reader = discovery.load("datasets", self.name)
        if self.root is None and reader.NEEDS_ROOT:
            raise ValueError(f"data.root: '{self.name}' is read from a folder; give its path")
        if self.image_size is not None and not reader.RESIZES:
            raise ValueError(f"data.image_size = {self.image_size}: the images of '{self.name}' have a size of their own")
        return self


class Views(Section):
    """Augmentation of a view. `blur` and `solarise` have one probability a view; each data set has its own defaults."""

    crop_scale: tuple[Share, Share] = (0.2, 1.0)
    crop_ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
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

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for key in ("crop_scale", "crop_ratio"):
            low, high = getattr(self, key)
            if not 0 < low <= high:
                raise ValueError(f"views.{key} = [{low}, {high}]: must be two rising numbers above 0")
        return self


class Optim(Section):
    """Optimiser. `lr` is absolute, at the batch size that is configured.

    LARS scales by `trust` and leaves norm parameters and biases unscaled and undecayed.
    """

    name: Literal["sgd", "lars"] = "sgd"
    lr: Positive = 0.05
    schedule: Literal["constant", "cosine", "linear"] = "cosine"
    final_lr: Annotated[float, Field(ge=0)] = 0.0
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    momentum: Share = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    trust: Positive = 1e-3


class Train(Section):
    """Length, batch and arithmetic. The batch is `num_shards` shards of `shard_size` samples that share batch-norm statistics.

    With `exact` a worker runs its shards one after another and gradients are summed in float64: in fp32 the trial is then the same to
    the last bit on any number of workers of one kind. Without, a worker runs all its shards in one pass, which is faster where shards
    are small.
    """

    epochs: Annotated[int, Field(ge=0)] = 10
    batch_size: Count = 64
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


class KNN(Section):
    """Weighted kNN on the encoder's features: cosine similarity, weights exp(similarity / temperature)."""

    k: Count = 20
    temperature: Positive = 0.07


class LinearProbe(Section):
    """Offline linear protocol on frozen, standardised features."""

    epochs: Count = 100
    lr: Positive = 0.1
    batch_size: Count = 256
    weight_decay: Annotated[float, Field(ge=0)] = 0.0


class Evaluation(Section):
    """How a trial is scored, and on which network: the `student` or its `teacher`."""

    network: Literal["student", "teacher"] = "student"
    every_epochs: Count = 1
    batch_size: Count = 256
    knn: KNN = KNN()
    linear: LinearProbe = LinearProbe()


class TrialConfig(Section):
    """Everything that a trial is a function of, besides its data."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    method: Method = Method()
    data: Data = Data()
    views: Views = Views()
    encoder: Encoder = Encoder()
    teacher: Teacher = Teacher()
    optim: Optim = Optim()
    train: Train = Train()
    evaluation: Evaluation = Evaluation()

    @model_validator(mode="before")
    @classmethod
    def _views_of_the_data(cls, given: Any) -> Any:
        """Fills in the views that suit the data set (no flip for digits) where the user gave none."""
        if not isinstance(given, Mapping):
            return given
        data, views = given.get("data") or {}, given.get("views") or {}
        name = data.get("name", "digits") if isinstance(data, Mapping) else getattr(data, "name", None)
        if name not in discovery.names("datasets") or not isinstance(views, Mapping):
            return given
        return {**given, "views": {**discovery.load("datasets", name).VIEWS, **views}}

    @model_validator(mode="after")
    def _learns_something(self) -> Self:
        if self.optim.warmup_epochs > self.train.epochs > 0:
            raise ValueError(f"optim.warmup_epochs = {self.optim.warmup_epochs}: must not exceed train.epochs = {self.train.epochs}")
        return self

    def plain(self) -> dict[str, Any]:
        """The configuration as nested plain values, ready for YAML and JSON; `parse` gives it back."""
        return self.model_dump(mode="json")

    def check_data(self) -> None:
        """Raises `UserError` where the data folder is missing or holds too little. Reads names and counts only, so it is quick."""
        reader = discovery.load("datasets", self.data.name)
        reader.check(self.data)
        images, _ = split_sizes(self.data, reader.count(self.data))
        if images < self.train.batch_size:
            raise UserError(f"train.batch_size = {self.train.batch_size}: there are only {images} training images")


def split_sizes(data: Data, count: int) -> tuple[int, int]:
    """How many of `count` stored train images are for training and how many for validation (a tenth, where it is not given).

    Raises:
        UserError: there are fewer images than asked for.
    """
    held_out = data.validation_images or max(1, count // 10)
    if held_out + (data.train_images or 1) > count:
        asked = f"data.train_images = {data.train_images}, data.validation_images = {held_out}"
        raise UserError(f"{asked}: the train split has {count} images for both")
    return data.train_images or count - held_out, held_out


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


def scaled_batch(config: TrialConfig, batch_size: int) -> TrialConfig:
    """The same training at another batch size: batch x k, learning rate x k, (1 - momentum) x k (Momentum² Teacher, sec. 4.2).

    A Spatial Ensemble without momentum ("se") keeps a share p of its units instead, so there (1 - p) is scaled.

    Raises:
        UserError: the batch is no multiple of the shard, or the teacher's share of the student would exceed 1.
    """
    k = batch_size / config.train.batch_size
    rates = {"teacher.momentum.base": config.teacher.momentum.base, "teacher.momentum.final": config.teacher.momentum.final}
    if config.teacher.momentum.kind == "constant":
        del rates["teacher.momentum.final"]
    if config.teacher.smoothing.kind == "se":
        rates = {"teacher.smoothing.p": config.teacher.smoothing.p}
    scaled = {key: round(1 - (1 - rate) * k, 12) for key, rate in rates.items()}
    for key, rate in scaled.items():
        if rate < 0:
            raise UserError(f"{key} = {rates[key]}: cannot follow to {k:g} times the batch, its share of the student would exceed 1")
    lr = {"optim.lr": config.optim.lr * k, "optim.final_lr": config.optim.final_lr * k}
    return changed(config.plain(), {"train.batch_size": batch_size, **lr, **scaled})


def steps(config: TrialConfig, images: int) -> tuple[int, int, int]:
    """Steps an epoch, steps in all and warm-up steps, for a train split of `images` images. The last partial batch is dropped."""
    per_epoch = images // config.train.batch_size
    return per_epoch, per_epoch * config.train.epochs, math.ceil(config.optim.warmup_epochs * per_epoch)


def lr_at(config: TrialConfig, step: int, total: int, warmup: int) -> float:
    """Learning rate of a 0-based step."""
    return schedules.warmed_up(config.optim.schedule, config.optim.lr, config.optim.final_lr, step, total, warmup)
