"""What validation must know of methods and protocols: the base classes of their options. Needs no torch.

`trainables.learning.methods.base` adds the loss and the state of a method, and `trainables.evaluation.protocols.base`
adds the measurement.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Protocol

from pydantic import field_validator, model_validator

from trainables.config.encoder import Encoder
from trainables.config.errors import nearest
from trainables.config.sections import Schedule, Section
from trainables.config.settings import merged
from trainables.config.teacher import Teacher
from trainables.config.training import OnlineProbe, Train

ViewKind = Literal["full", "weak", "strong", "local"]
"""full: all augmentations. weak: cropped and flipped. strong: weak, then RandAugment. local: full, of a small crop."""
Direction = Literal["max", "min"]


class Trial(Protocol):
    """What a method and a protocol may ask of the trial that they belong to: a TrialConfig."""

    @property
    def method(self) -> "MethodOptions": ...
    @property
    def encoder(self) -> Encoder: ...
    @property
    def teacher(self) -> Teacher: ...
    @property
    def online_probe(self) -> OnlineProbe: ...
    @property
    def train(self) -> Train: ...
    @property
    def evaluation(self) -> "Judging": ...


class Judging(Protocol):
    """What may be asked of a trial's section `evaluation`."""

    @property
    def before_feature_norm(self) -> bool: ...
    def protocol(self, name: str) -> "ProtocolOptions": ...


class MethodOptions(Section):
    """Options of a method, and what follows from them before anything is trained.

    Attributes:
        VIEWS: the views of an image.
        LABELLED_VIEWS: the views of a labelled image, for methods that also learn from labels.
        CLASSIFIES: whether the projector returns logits of the classes. Its width is then the number of classes.
        DEFAULTS: dotted keys of a trial that the method sets, such as those of its head. The user may set other values.
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
        """Hidden width of the student's predictor; None where it has no predictor."""
        return None

    @property
    def views(self) -> tuple[ViewKind, ...]:
        """The views that are made of an image."""
        return self.VIEWS

    @property
    def looks_at_the_batch(self) -> bool:
        """Whether the loss needs all samples of the batch at once. A worker then runs its shards in one pass."""
        return False

    def labelled_in(self, shard_size: int) -> int:
        """Returns how many labelled images come with a shard."""
        return 0

    def durations(self) -> dict[str, str]:
        """Returns the durations at the beginning of a run, by option."""
        return {f"{name}.warmup": schedule.warmup for name, schedule in self._schedules().items()}

    def check(self, trial: Trial) -> None:
        """Raises ValueError, "key = value: rule", where the method cannot be part of the trial."""

    def _schedules(self) -> dict[str, Schedule]:
        """Returns the options that follow the step, by name."""
        return {name: value for name in type(self).model_fields if isinstance(value := getattr(self, name), Schedule)}


class ProtocolOptions(Section):
    """Options of an evaluation protocol, and what follows from them before anything is measured.

    Attributes:
        METRICS: the metrics that it gives in every trial, and whether more ("max") or less ("min") is better. It may
            give others, which have a "/" in their names.
        LABELS: whether its scores need labels, of at least two classes.
        USES: other protocols whose options count too.
        RECIPES: options of papers, by the value of the option `recipe`. What is set beside `recipe` counts above them.
    """

    METRICS: ClassVar[dict[str, Direction]] = {}
    LABELS: ClassVar[bool] = True
    USES: ClassVar[tuple[str, ...]] = ()
    RECIPES: ClassVar[dict[str, dict[str, Any]]] = {}

    @field_validator("recipe", check_fields=False)
    @classmethod
    def _known_recipe(cls, name: str | None) -> str | None:
        if name is not None and name not in cls.RECIPES:
            raise ValueError(f"no such recipe{nearest(name, cls.RECIPES)}")
        return name

    @model_validator(mode="before")
    @classmethod
    def _follow_recipe(cls, options: Any) -> Any:
        recipe = options.get("recipe") if isinstance(options, Mapping) else None
        return (
            merged(cls.RECIPES[recipe], options, cls) if isinstance(recipe, str) and recipe in cls.RECIPES else options
        )

    def unfit(self, trial: Trial) -> str | None:
        """Returns why the trial cannot be judged in this way; None where it can."""
        return None
