"""TrialConfig: every knob of a trial, validated and frozen. The last place where values change. Needs no torch."""

import functools
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Self, Union

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from trainables.config import discovery, recipes
from trainables.config.base import MethodOptions
from trainables.config.data import DATA_SETS, Data, facts
from trainables.config.data import Labels as Labels
from trainables.config.durations import Length, steps_in
from trainables.config.encoder import WIDE as WIDE
from trainables.config.encoder import Encoder, Views
from trainables.config.encoder import Head as Head
from trainables.config.encoder import RandAugment as RandAugment
from trainables.config.errors import UserError, shown, shown_name
from trainables.config.evaluation import Evaluation
from trainables.config.init import Init as Init
from trainables.config.monitors import MONITORS as MONITORS
from trainables.config.monitors import Monitor as Monitor
from trainables.config.monitors import Monitors
from trainables.config.sections import LearningRate as LearningRate
from trainables.config.sections import Section, Seed
from trainables.config.settings import flat, merged, validated, with_values
from trainables.config.teacher import PARTS as PARTS
from trainables.config.teacher import Teacher
from trainables.config.training import OnlineProbe, Optim, Train

METHODS = discovery.classes("learning.methods", MethodOptions)
if TYPE_CHECKING:
    AnyMethod = MethodOptions
else:
    chosen = tuple(Annotated[kind, Tag(name)] for name, kind in METHODS.items())
    AnyMethod = Annotated[Union[chosen], Discriminator(lambda section: _name(section, "byol"))]  # noqa: UP007

_KEY_WITH_VALUE = re.compile(r"(?<![\w.])(?:trial\.)?([a-z_]+(?:\.[a-z_0-9]+)+) = ")


class TrialConfig(Section):
    """Everything that a trial is a function of, besides its data. A `preset` fills in a paper's recipe."""

    preset: (
        Annotated[str, AfterValidator(recipes.known), Field(json_schema_extra={"enum": list(recipes.names())})] | None
    ) = None
    """A paper's recipe for the method; what is set beside it counts above it."""
    seed: Seed = 0
    """Seed of the first student, the order of images, views and masks."""
    method: AnyMethod = METHODS["byol"](name="byol")
    data: Data = Data()
    views: Views = Views()
    encoder: Encoder = Encoder()
    init: Init = Init()
    teacher: Teacher = Teacher()
    optim: Optim = Optim()
    online_probe: OnlineProbe = OnlineProbe()
    train: Train = Train()
    evaluation: Evaluation = Evaluation()
    monitors: Monitors = Monitors()

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, given: Any) -> Any:
        """Fills in what the user left out: keys of the method, such as its head, and views that suit the data set."""
        if not isinstance(given, Mapping):
            return given
        data, method = _name(given.get("data"), "digits"), _name(given.get("method"), "byol")
        under: dict[str, Any] = {"method": {"name": method}}
        if method in METHODS:
            under = {**_defaults_of(method)}
        if data in DATA_SETS:
            under["views"] = {**under.get("views", {}), **facts(data).VIEWS}
        return merged(merged(under, _recipe(given, method), cls), given, cls)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.preset and self.method.name not in (own := recipes.methods(self.preset)):
            raise ValueError(
                f"preset.{self.preset}: has no recipe for method.name = {self.method.name}; it has {', '.join(own)}"
            )
        self.method.check(self)
        if self.data.labels.apart and not self.method.LABELLED_VIEWS:
            raise ValueError(
                f"data.labels.apart = true: {self.method.name} learns from no labelled images beside the others; "
                "fixmatch and mean_teacher do"
            )
        epochs = Length(self.train.epochs, 1)
        for key, warmup in self.warmups().items():  # those in steps wait until the data are known
            if self.train.epochs and "step" not in warmup and steps_in(warmup, epochs) > self.train.epochs:
                raise ValueError(f"{key} = {warmup}: must not exceed train.epochs = {self.train.epochs}")
        placed = (*self.teacher.placement, *self.teacher.momenta)
        # groups of parts have both block3 and block4
        if "block4" not in self.encoder.parts and "block4" in placed and "block3" not in placed:
            raise ValueError(f"teacher.placement: '{self.encoder.name}' has no block4")
        student, norm = self.encoder.norm, self.teacher.norm
        if not student.batch_statistics and norm.kind != "batch":
            raise ValueError(
                f"teacher.norm.kind = {norm.kind}: with encoder.norm.kind = {student.kind} there are no batch "
                "statistics; leave it at batch, and the teacher has the student's norm"
            )
        if self.teacher.smoothing.masks == "per_worker" and self.evaluation.network == "teacher":
            raise ValueError(
                "evaluation.network = teacher: with teacher.smoothing.masks = per_worker there is more than one; "
                "score the student"
            )
        for key, schedule in self.teacher.follow_the_batch.items():
            if self.train.base_batch and not schedule.scales:
                told = f"{schedule.kind} with a warm-up of {schedule.warmup}" if schedule.warms_up else schedule.kind
                raise ValueError(
                    f"teacher.{key} = {told}: with train.base_batch it must be constant, cosine or linear, "
                    "without a warm-up"
                )
        if reason := self.evaluation.unfit(self):
            raise ValueError(f"evaluation.protocols: {reason}")
        if self.evaluation.before_feature_norm and self.encoder.feature_norm == "none":
            raise ValueError(
                "evaluation.before_feature_norm: the encoder has none; set encoder.feature_norm to pooled or map"
            )
        if self.encoder.stem == "standard" and self.encoder.name in WIDE:
            raise ValueError(f"encoder.stem = standard: '{self.encoder.name}' is for small images")
        self.monitors.check(self.encoder)
        head = self.encoder.projector
        if self.teacher.placement == ("fc1",) and head.layers == 1 and not head.prototypes:
            raise ValueError("teacher.placement: a projector of one layer is fc2 alone, so nothing would be averaged")
        return self

    def warmups(self) -> dict[str, str]:
        """Returns the durations at the beginning of a run, by key."""
        teacher = self.teacher
        followed = {
            "optim.lr": self.optim.lr,
            "optim.weight_decay": self.optim.weight_decay,
            "teacher.momentum": teacher.momentum,
            "teacher.smoothing.p": teacher.smoothing.p,
            "teacher.norm.alpha": teacher.norm.alpha,
            "encoder.norm.alpha": self.encoder.norm.alpha,
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
            or self.encoder.norm.looks_at_the_batch
            or self.teacher.norm.looks_at_the_batch
        )

    def plain(self) -> dict[str, Any]:
        """Returns nested plain values, ready for YAML and JSON; `parse` reads them back."""
        return self.model_dump(mode="json")


@functools.cache
def _defaults_of(method: str) -> Mapping[str, Any]:
    """Returns a method's nested values of a trial: all its options, and the keys that it sets elsewhere."""
    options = METHODS[method](name=method)
    return with_values({"method": options.model_dump(mode="json")}, options.DEFAULTS, TrialConfig)


def _name(section: Any, default: str) -> str:
    """Returns the name in a section, which may be nested values, a model or the name alone."""
    if section is None:
        return default
    name = section.get("name", default) if isinstance(section, Mapping) else getattr(section, "name", section)
    return name if isinstance(name, str) else shown(name)


def _recipe(given: Mapping[str, Any], method: str) -> Mapping[str, Any]:
    """Returns the preset's recipe for the method, for a run as long as `given` says; nothing without a preset."""
    preset = given.get("preset")
    recipe = _whole_recipe(preset, method) if isinstance(preset, str) and method in METHODS else {}
    paper, train = recipe.get("train", {}).get("epochs"), given.get("train")
    epochs = train.get("epochs") if isinstance(train, Mapping) else None
    return recipes.shortened(recipe, paper) if paper and isinstance(epochs, int) and epochs < paper else recipe


@functools.cache
def _whole_recipe(preset: str, method: str) -> Mapping[str, Any]:
    """Returns the layers of a preset's recipe merged into one; nothing where there is no such preset."""
    recipe: dict[str, Any] = {}
    for layer in recipes.recipe(preset, method):
        recipe = merged(recipe, layer, TrialConfig)
    return recipe


def told(error: UserError, given: Any) -> UserError:
    """Returns an error whose lines say which keys a preset or the method sets, and not the user.

    Args:
        error: each of its lines names keys, as "key = value".
        given: nested values of the trial, as the user gave them.
    """
    if not isinstance(given, Mapping) or (method := _name(given.get("method"), "byol")) not in METHODS:
        return error
    recipe, own = _recipe(given, method), with_values({}, METHODS[method].DEFAULTS, TrialConfig)
    sources = {f"method {method}": flat(own), f"preset {shown_name(given.get('preset'))}": flat(recipe)}
    resolved = flat(merged(merged(own, recipe, TrialConfig), given, TrialConfig))
    return UserError("\n".join(_with_origins(line, sources, resolved) for line in str(error).splitlines()))


def _with_origins(line: str, sources: Mapping[str, Mapping[str, Any]], resolved: Mapping[str, Any]) -> str:
    """Returns a line with the sources of its keys, where a source sets the value that the trial has."""
    origins = {}
    for key in _KEY_WITH_VALUE.findall(line):
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
        raise told(error, given) from None


def changed(nested: Mapping[str, Any], values: Mapping[str, Any]) -> TrialConfig:
    """Returns the trial of nested values in which each dotted key of `values` is set.

    Raises:
        UserError: a line for each fault, with key, value, rule and the nearest valid name.
    """
    return parse(with_values(nested, values, TrialConfig))


def length(config: TrialConfig, images: int) -> Length:
    """Returns the length of a run that learns from `images` images. The last partial batch of an epoch is dropped.

    Raises:
        UserError: a warm-up is longer, or the run is too long or too short for its traces.
    """
    per_epoch = images // config.train.batch_size
    run = Length(per_epoch * config.train.epochs, per_epoch)
    every = {} if config.monitors.every is None else {"monitors.every": config.monitors.every}
    for key, duration in (config.warmups() | every).items():
        if run.total and steps_in(duration, run) > run.total:
            rule = f"must not exceed the run, which has {run.total} steps"
            raise told(UserError(f"{key} = {duration}: {rule}"), config.plain())
    if excess := config.monitors.too_often(run):
        raise UserError(f"monitors.every = {config.monitors.every}: {excess}")
    return run
