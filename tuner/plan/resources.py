"""What a trial gets of a cluster."""

import re
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator

from trainables.config.errors import shown, shown_name
from trainables.config.sections import Section
from tuner.plan.strategy import MOST_TRIALS

DURATION = re.compile(r"[0-9]{1,6}(\.[0-9]{1,3})?[smh]")
LEAST_PATIENCE = 10  # seconds: more than the ranks of a trial take to agree on a fault
MOST_WORKERS = 100_000
MOST_CUSTOM = 20  # kinds of custom resources
LARGEST_AMOUNT = 1e6  # of a custom resource
SEPARATORS = "-:…–"  # with which people write ranges; only the first one is ours
RANGE = re.compile(rf"\s*([0-9]{{1,9}})\s*([{SEPARATORS}]|\.\.)\s*([0-9]{{1,9}})\s*")
WORKERS_RULE = "must be a whole number from 1 to 100000, or a range such as 2-8"
RESERVED = ("cpu", "gpu", "memory", "object_store_memory")  # names of Ray's own resources


def _duration(given: object) -> str:
    """Checks a duration as it is written; text in general has another rule."""
    if not isinstance(given, str) or not DURATION.fullmatch(given) or seconds_of(given) < LEAST_PATIENCE:
        raise ValueError(f"must be a duration of at least {LEAST_PATIENCE}s, such as 90s, 10m or 2h")
    return given


def seconds_of(duration: str) -> float:
    return float(duration[:-1]) * {"s": 1, "m": 60, "h": 3600}[duration[-1]]


def _workers(given: object) -> int | str:
    """Returns a number of workers as an integer, and a range as text such as "2-8"."""
    if isinstance(given, float) and given.is_integer():
        given = int(given)
    if isinstance(given, int) and not isinstance(given, bool) and 1 <= given <= MOST_WORKERS:
        return given
    if isinstance(given, str) and re.fullmatch(r"\s*[0-9]{1,9}\s*", given):
        return _workers(int(given))
    form = RANGE.fullmatch(given) if isinstance(given, str) else None
    if form is None:
        raise ValueError(WORKERS_RULE + sexagesimal_hint(given))
    low, separator, high = int(form[1]), form[2], int(form[3])
    if separator != "-":
        raise ValueError(f"{WORKERS_RULE}; did you mean '{low}-{high}'?")
    if not 1 <= low <= high <= MOST_WORKERS:
        swapped = f"; did you mean '{high}-{low}'?" if 1 <= high < low else ""
        raise ValueError(f"a range begins with its lower end, which is at least 1, and ends at {MOST_WORKERS}{swapped}")
    return low if low == high else f"{low}-{high}"


def sexagesimal_hint(given: object) -> str:
    """Returns a hint where a number may be a range that YAML has read in base 60; "" where it cannot be one."""
    if not isinstance(given, int) or isinstance(given, bool):
        return ""
    low, high = divmod(given, 60)
    return f"; YAML reads {low}:{high} as {given}: a range is written {low}-{high}" if 1 <= low < high else ""


def _custom(amounts: dict[str, float]) -> dict[str, float]:
    """Checks names and amounts by Ray's rules: a name of the user's own, and a part of one or a whole number."""
    for name, amount in amounts.items():
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,99}", name) or name.startswith("node:"):
            raise ValueError(f"{shown_name(name)}: a name of a custom resource has letters, digits, '_', '.' and '-'")
        if name.lower() in RESERVED:
            own = {"cpu": "; set resources.cpus_per_worker", "gpu": "; set resources.gpus_per_worker"}
            raise ValueError(f"{name}: is a resource of Ray's own{own.get(name.lower(), '')}")
        if amount > 1 and amount % 1:
            raise ValueError(f"{name} = {shown(amount)}: above 1 an amount is a whole number")
    return amounts


Amount = Annotated[float, Field(gt=0, le=LARGEST_AMOUNT)]


class Resources(Section):
    """What a trial gets.

    With a range of `workers`, such as 2-8, a trial begins with the lower number. It gets more while workers are idle
    that no trial waits for, and gives them back to trials that wait.
    """

    workers: Annotated[
        int | str, BeforeValidator(_workers), Field(json_schema_extra={"enum": ["a whole number >= 1", "2-8"]})
    ] = 1
    """Workers of a trial, no more than it has shards: a number, or the smallest and the largest number, such as 2-8."""
    cpus_per_worker: Annotated[int, Field(ge=1, le=10_000)] = 1
    """CPUs of a worker."""
    gpus_per_worker: Annotated[float, Field(ge=0, le=1000)] = 0
    """GPUs of a worker: 0, 1, or a part of one for a trial of a single worker."""
    custom: Annotated[dict[str, Amount], Field(max_length=MOST_CUSTOM)] = Field(default_factory=dict)
    """Custom resources of a worker by their names in Ray, such as {tpu: 1}."""
    concurrent_trials: Annotated[int, Field(ge=1, le=MOST_TRIALS)] | None = None
    """How many trials run at once; as many as fit where it is not given."""
    max_slots: Annotated[int, Field(ge=1, le=MOST_TRIALS)] | None = None
    """How many slots a search holds at most; a slot has the smallest number of workers of a trial."""
    restarts: Annotated[int, Field(ge=0, le=1000)] = 3
    """How often a trial goes on after its workers died without a new epoch."""
    patience: Annotated[str, BeforeValidator(_duration), Field(json_schema_extra={"format": "duration"})] = "10m"
    """How long workers may make no progress (no step, no image read, no evaluation) before they are ended.

    Their trial goes on with others; so it is longer than anything they do at once.
    """

    @property
    def smallest(self) -> int:
        """The smallest number of workers of a trial, which is that of a slot."""
        return int(str(self.workers).partition("-")[0])

    @property
    def largest(self) -> int:
        """The largest number of workers of a trial."""
        return int(str(self.workers).rpartition("-")[2])

    @property
    def is_elastic(self) -> bool:
        """Whether a trial may get more workers than the smallest number. A larger width has whole slots."""
        return self.largest >= 2 * self.smallest

    def widths(self, num_shards: int) -> tuple[int, ...]:
        """Returns the numbers of workers that a trial may have, ascending. The first one is the smallest.

        Each is a multiple of the smallest one, and gives the worker with the most shards fewer of them than the width
        before: only that makes a step shorter.

        Args:
            num_shards: of the trial's batch.
        """
        widths, most = [self.smallest], -(-num_shards // self.smallest)
        for width in range(2 * self.smallest, min(self.largest, num_shards) + 1, self.smallest):
            if (shards := -(-num_shards // width)) < most:
                widths.append(width)
                most = shards
        return tuple(widths)

    @property
    def patience_seconds(self) -> float:
        return seconds_of(self.patience)

    @model_validator(mode="after")
    def _whole_gpus(self) -> Self:
        if self.gpus_per_worker > 1 or (self.gpus_per_worker % 1 and self.largest > 1):
            rule = "a worker uses one GPU, and only a single worker may share one"
            raise ValueError(f"resources.gpus_per_worker = {self.gpus_per_worker}: {rule}")
        if self.custom:
            try:
                _custom(self.custom)
            except ValueError as error:
                raise ValueError(f"resources.custom.{error}") from None
        return self
