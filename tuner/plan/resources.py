"""What a trial gets of a cluster."""

import re
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator

from trainables.config.sections import Section
from tuner.plan.strategy import MOST_TRIALS

DURATION = re.compile(r"[0-9]{1,6}(\.[0-9]{1,3})?[smh]")
LEAST_PATIENCE = 10  # seconds: more than the ranks of a trial take to agree on a fault


def _duration(given: object) -> str:
    """Checks a duration as it is written; text in general has another rule."""
    if not isinstance(given, str) or not DURATION.fullmatch(given) or _seconds(given) < LEAST_PATIENCE:
        raise ValueError(f"must be a duration of at least {LEAST_PATIENCE}s, such as 90s, 10m or 2h")
    return given


def _seconds(duration: str) -> float:
    return float(duration[:-1]) * {"s": 1, "m": 60, "h": 3600}[duration[-1]]


class Resources(Section):
    """What a trial gets."""

    workers: Annotated[int, Field(ge=1, le=100_000)] = 1
    """Workers of a trial; no more than it has shards."""
    cpus_per_worker: Annotated[int, Field(ge=1, le=10_000)] = 1
    """CPUs of a worker."""
    gpus_per_worker: Annotated[float, Field(ge=0, le=1000)] = 0
    """GPUs of a worker: 0, 1, or a part of one for a trial of a single worker."""
    concurrent_trials: Annotated[int, Field(ge=1, le=MOST_TRIALS)] | None = None
    """How many trials run at once; as many as fit where it is not given."""
    restarts: Annotated[int, Field(ge=0, le=1000)] = 3
    """How often a trial goes on after its workers died without a new epoch."""
    patience: Annotated[str, BeforeValidator(_duration), Field(json_schema_extra={"format": "duration"})] = "10m"
    """How long workers may make no progress (no step, no image read, no evaluation) before they are ended.

    Their trial goes on with others; so it is longer than anything they do at once.
    """

    @property
    def patience_seconds(self) -> float:
        return _seconds(self.patience)

    @model_validator(mode="after")
    def _whole_gpus(self) -> Self:
        if self.gpus_per_worker > 1 or (self.gpus_per_worker % 1 and self.workers > 1):
            rule = "a worker uses one GPU, and only a single worker may share one"
            raise ValueError(f"resources.gpus_per_worker = {self.gpus_per_worker}: {rule}")
        return self
