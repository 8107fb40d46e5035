"""What configurations are made of: frozen groups of keys, and schedules."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from trainables import schedules

Kind = Literal["constant", "cosine", "linear", "exponential", "step", "cosine_7_16", "running_mean"]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Factor = Annotated[float, Field(gt=0, le=1)]  # of what must stay a share
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A frozen group of keys that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and info.field_name and cls.model_fields[info.field_name].annotation is not bool:
            raise ValueError("must not be true or false")
        return value


def _duration(given: Any) -> str:
    """Text of a duration; a plain number counts epochs."""
    text = f"{given:g} epochs" if isinstance(given, int | float) else str(given)
    schedules.steps_in(text, schedules.Length(0, 0))
    return text


Duration = Annotated[str, BeforeValidator(_duration)]


class Schedule(Section):
    """A value that follows the step: `base` at first, `final` at the end of the run. A plain number in its place sets `base`.

    Durations read "500 steps", "10 epochs" or "5 %" of the run. A warm-up begins one of its steps above `warmup_factor` times `base`
    (`schedules.at`). At each of its `milestones` a "step" schedule is multiplied by `factor`. "cosine_7_16" ends at 0.195 base
    (FixMatch). "running_mean" is for keep-rates: that of a plain mean of all steps so far, at most `base` (Mean Teacher).
    """

    KEEPS: ClassVar[bool] = False  # whether it is a keep-rate

    kind: Kind = "constant"
    base: float
    final: float = 0.0
    warmup: Duration = "0 steps"
    warmup_factor: Share = 0.0
    milestones: tuple[Duration, ...] = ()
    factor: Positive = 0.1

    @classmethod
    def short(cls, value: Any) -> dict[str, Any]:
        """The keys that a plain value in place of the section sets."""
        return {"base": value}

    @model_validator(mode="before")
    @classmethod
    def _short(cls, given: Any) -> Any:
        return cls.short(given) if isinstance(given, int | float) and not isinstance(given, bool) else given

    @property
    def scales(self) -> bool:
        """Whether base and final say all of it, so that the equivalence rule can scale it: constant, cosine or linear, no warm-up."""
        return self.kind in ("constant", "cosine", "linear") and not self.warms_up

    @property
    def warms_up(self) -> bool:
        """Whether it begins with a warm-up."""
        return schedules.steps_in(self.warmup, schedules.Length(100, 1)) > 0

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> Self:
        if self.kind == "exponential" and not (self.base > 0 and self.final > 0):
            raise ValueError("an exponential schedule needs a base and a final above 0")
        if self.kind == "running_mean" and not self.KEEPS:
            raise ValueError("running_mean is the schedule of a keep-rate, so of teacher.momentum alone")
        if self.kind == "step" and not self.milestones:
            raise ValueError("a step schedule needs milestones, such as [60 epochs, 80 epochs]")
        return self


class LearningRate(Schedule):
    """Of an optimiser, at the batch size that is configured with it."""

    kind: Kind = "cosine"
    base: Positive = 0.05
    final: NonNegative = 0.0
