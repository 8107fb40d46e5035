"""What configurations are made of: frozen groups of keys, and schedules."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from trainables.config import durations
from trainables.config.durations import Length, steps_in

LARGEST = 1e38  # of a number: float32 has hardly larger ones
MOST = 10**9  # of what is counted, where nothing narrower is said
MOST_EPOCHS = 10**6
WIDEST = 10**6  # channels or units of a layer
MOST_MILESTONES = 1000
LONGEST_DURATION = 40  # characters

Kind = Literal["constant", "cosine", "linear", "exponential", "step", "cosine_7_16", "running_mean"]
Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, le=LARGEST)]
Factor = Annotated[float, Field(gt=0, le=1)]  # of what must stay a share
NonNegative = Annotated[float, Field(ge=0, le=LARGEST)]
Count = Annotated[int, Field(ge=1, le=MOST)]
Epochs = Annotated[int, Field(ge=1, le=MOST_EPOCHS)]
Width = Annotated[int, Field(ge=1, le=WIDEST)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Section(BaseModel):
    """A frozen group of keys that refuses unknown keys. `tuner keys` shows the text below a key.

    Attributes:
        SHORT: the key that a plain value in place of the section sets, such as `kind`: `norm: eman` is
            `norm: {kind: eman}`. "": the section has no short form.
    """

    SHORT: ClassVar[str] = ""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def short(cls, value: Any) -> dict[str, Any]:
        """Returns the keys that a plain value in place of the section sets."""
        return {cls.SHORT: value}

    @model_validator(mode="before")
    @classmethod
    def _short(cls, section: Any) -> Any:
        plain = section is not None and not isinstance(section, Mapping | BaseModel)
        return cls.short(section) if cls.SHORT and plain else section

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and info.field_name and cls.model_fields[info.field_name].annotation is not bool:
            raise ValueError("must not be true or false")
        return value


def _duration(duration: Any) -> str:
    """Returns the text of a duration; a plain number counts epochs."""
    plain = isinstance(duration, int | float)
    text = f"{duration:g} epochs" if plain and abs(duration) <= MOST else str(duration)[:LONGEST_DURATION]
    match = durations.DURATION.fullmatch(text)
    if (plain and abs(duration) > MOST) or (match and float(match[1]) > MOST):
        raise ValueError(f"must be at most {MOST:,} steps or epochs")
    steps_in(text, Length(0, 0))
    return text


Duration = Annotated[str, BeforeValidator(_duration), Field(json_schema_extra={"format": "duration"})]


class Schedule(Section):
    """A value that follows the step. A plain number in its place sets `base`.

    Durations read "500 steps", "10 epochs" or "5 %" of the run. A warm-up begins one of its own steps above
    `warmup_factor` times `base` (`schedules.at`). "cosine_7_16" ends at 0.195 base (FixMatch). "running_mean" is a
    keep-rate: that of a plain mean of all steps so far, at most `base` (Mean Teacher).
    """

    SHORT: ClassVar[str] = "base"
    KEEPS: ClassVar[bool] = False  # whether it is a keep-rate

    kind: Kind = "constant"
    """The curve from base to final; running_mean is for a keep-rate alone."""
    base: Number
    """Value after the warm-up; a constant schedule stays there."""
    final: Number = 0.0
    """Value at the end of the run, of the kinds cosine, linear and exponential."""
    warmup: Duration = "0 steps"
    """Duration of the rise to base at the beginning: 500 steps, 10 epochs or 5 % of the run."""
    warmup_factor: Share = 0.0
    """Share of base near which the warm-up begins."""
    milestones: Annotated[tuple[Duration, ...], Field(max_length=MOST_MILESTONES)] = ()
    """When a step schedule is multiplied by factor, such as [60 epochs, 80 epochs]."""
    factor: Positive = 0.1
    """What a step schedule is multiplied by at each milestone."""

    @property
    def scales(self) -> bool:
        """Whether the equivalence rule can scale it: constant, cosine or linear, without a warm-up."""
        return self.kind in ("constant", "cosine", "linear") and not self.warms_up

    @property
    def warms_up(self) -> bool:
        """Whether it begins with a warm-up."""
        return steps_in(self.warmup, Length(100, 1)) > 0

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> Self:
        if self.kind == "exponential" and not (self.base > 0 and self.final > 0):
            raise ValueError("an exponential schedule needs a base and a final above 0")
        if self.kind == "running_mean" and not self.KEEPS:
            raise ValueError("running_mean is the schedule of a keep-rate, so of teacher.momentum alone")
        if self.kind == "step" and not self.milestones:
            raise ValueError("a step schedule needs milestones, such as [60 epochs, 80 epochs]")
        return self


class CosineShare(Schedule):
    """A share that follows a cosine unless told otherwise. A plain number in its place is the value of every step."""

    kind: Kind = "cosine"
    factor: Factor = 0.1

    @classmethod
    def short(cls, value: Any) -> dict[str, Any]:
        """Returns the keys of a constant schedule."""
        return {"kind": "constant", "base": value}


class LearningRate(Schedule):
    """Learning rate of an optimiser, at the batch size that is configured with it."""

    kind: Kind = "cosine"
    base: Positive = 0.05
    final: NonNegative = 0.0
