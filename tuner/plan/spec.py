"""SearchSpec: a search's YAML, validated before anything is started."""

import math
import pkgutil
import re
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field, ModelWrapValidatorHandler, field_validator, model_validator

import search_spaces
from trainables.config import evaluation as evaluation_config
from trainables.config import trial as c
from trainables.config.errors import UserError, shown
from trainables.config.settings import validated
from tuner.plan.objective import Objective, first_metric
from tuner.plan.paper import Paper
from tuner.plan.resources import Resources, sexagesimal_hint
from tuner.plan.storage import Storage
from tuner.plan.strategy import MOST_TRIALS, Sampler, Stopping
from tuner.plan.table import MOST_POINTS, combined, completed

LONGEST_NAME = 100  # characters of a search's name, which folders are called by
LONGEST_LABEL = 200  # characters of a point's label
HOST_AND_PORT = re.compile(
    r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*):(?P<port>[0-9]{1,5})"
)
SPACES = sorted(module.name for module in pkgutil.iter_modules(search_spaces.__path__) if not module.ispkg)


def _labelled(given: object) -> object:
    """Points as YAML writes them: a number may be a label, and nothing behind it means that nothing differs."""
    if not isinstance(given, Mapping):
        return given
    points = {str(label): {} if point is None else point for label, point in given.items()}
    if len(points) < len(given):
        raise ValueError("two points have the same label")
    if odd := [label for label in points if not label.isprintable() or len(label) > LONGEST_LABEL]:
        raise ValueError(f"the label {shown(odd[0])} must be at most {LONGEST_LABEL} characters on one line")
    return points


def _countable(grid: dict[str, list[object]]) -> dict[str, list[object]]:
    """A grid whose combinations are not too many to be listed, each with a label of its own."""
    if (count := math.prod(map(len, grid.values()))) > MOST_POINTS:
        raise ValueError(f"combines to {count:,} points, of which at most {MOST_POINTS} make a table")
    if len(combined(grid)) < count:
        raise ValueError("two combinations have the same values")
    return grid


def _usable_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]+", name) or name.startswith(("-", ".")) or len(name) > LONGEST_NAME:
        raise ValueError(
            f"must be at most {LONGEST_NAME} of A-Z, a-z, 0-9, '.', '_' and '-', and begin with none of '.' and '-'"
        )
    return name


Points = Annotated[dict[str, dict[str, Any]], Field(min_length=1, max_length=MOST_POINTS)]
Grid = Annotated[dict[str, Annotated[list[Any], Field(min_length=1)]], Field(min_length=1)]


class SearchSpec(c.Section):
    """A search. `trial` holds what its trials have in common; the space proposes the rest.

    Instead of a space there may be a table of points, each run in full. A point may name another method or preset, and
    then gets what follows from it, as `trial` would. The number of `trials` follows, and nothing is stopped early.
    """

    name: Annotated[str, AfterValidator(_usable_name), Field(json_schema_extra={"maxLength": LONGEST_NAME})] = "search"
    """Of the search, and of its folder below runs/."""
    space: Annotated[str, Field(json_schema_extra={"enum": [*SPACES, "my_space.py:suggest"]})] = "teacher"
    """Who says what may vary: a space of this package, or a function in a file."""
    points: Annotated[Points | None, BeforeValidator(_labelled)] = None
    """A table in place of a space: a label for each point, and what differs from trial."""
    grid: Annotated[Grid, AfterValidator(_countable)] | None = None
    """A table of all combinations of values for keys of trial; at most 500."""
    paper: Paper | None = None
    """What a paper printed for the points of the table."""
    seeds: Annotated[int, Field(ge=1, le=MOST_TRIALS)] = 1
    """With how many seeds each point is run: trial.seed, trial.seed + 1, ..."""
    trials: Annotated[int, Field(ge=1, le=MOST_TRIALS)] = 20
    """How many trials the space proposes; of a table, points times seeds."""
    seed: c.Seed = 0
    """Of the sampler."""
    address: str = "local"
    """Where Ray runs: local, auto (the cluster that this machine belongs to), or host:port of a head."""
    trial: c.TrialConfig = c.TrialConfig()
    objective: Objective = Objective()
    stopping: Stopping = Stopping()
    sampler: Sampler = Sampler()
    resources: Resources = Resources()
    storage: Storage = Storage()

    @field_validator("address")
    @classmethod
    def _reachable_form(cls, address: str) -> str:
        form = HOST_AND_PORT.fullmatch(address)
        if address not in ("local", "auto") and not (
            form and len(form["host"]) <= 253 and 0 < int(form["port"]) < 2**16
        ):
            raise ValueError("must be 'local', 'auto' or host:port of a Ray head")
        return address

    @model_validator(mode="after")
    def _fits(self) -> Self:
        check_workers(self.resources, self.trial)
        if self.trial.train.epochs < 1:
            raise ValueError("trial.train.epochs = 0: a search needs at least 1 epoch")
        giver = (
            evaluation_config.METRICS.get(self.objective.metric)
            if "metric" in self.objective.model_fields_set
            else None
        )
        if giver is not None and giver not in self.trial.evaluation.protocols:
            listed = ", ".join(self.trial.evaluation.protocols)
            rule = f"needs '{giver}' in trial.evaluation.protocols, which has only {listed}"
            raise ValueError(f"objective.metric = {self.objective.metric}: {rule}")
        return self

    @model_validator(mode="wrap")
    @classmethod
    def _settle(cls, given: Mapping[str, object], validate: ModelWrapValidatorHandler[Self]) -> Self:
        """Fills in what follows from the trial and from a table, and refuses what goes against it."""
        spec = validate(given)
        if "metric" not in spec.objective.model_fields_set:
            spec = spec.model_copy(update={"objective": Objective(metric=first_metric(spec.trial))})
        if spec.paper:
            spec.paper.require_rows(spec.table)
        if not spec.table:
            if spec.seeds > 1:
                raise ValueError(f"seeds = {spec.seeds}: only a table is run with several seeds; give points or a grid")
            return spec
        sources = [
            key
            for key in ("space", "points", "grid")
            if key in spec.model_fields_set and getattr(spec, key) is not None
        ]
        if len(sources) > 1:
            raise ValueError(f"{sources[0]}: give either {sources[0]} or {sources[1]}")
        trials = len(spec.table) * spec.seeds
        if trials > MOST_TRIALS:
            limit = f"more than {MOST_TRIALS:,} trials, which is the limit"
            raise ValueError(f"seeds = {spec.seeds}: with {len(spec.table)} points {limit}")
        if "trials" in spec.model_fields_set and spec.trials != trials:
            rule = f"{len(spec.table)} points with {spec.seeds} seeds make {trials} trials; set seeds instead"
            raise ValueError(f"trials = {spec.trials}: {rule}")
        if "kind" in spec.stopping.model_fields_set and spec.stopping.kind != "none":
            rule = "must be none, for the points of a table are compared at their last epoch"
            raise ValueError(f"stopping.kind = {spec.stopping.kind}: {rule}")
        update: dict[str, Any] = {"trials": trials, "stopping": spec.stopping.model_copy(update={"kind": "none"})}
        whole = {
            label: completed(label, point, given.get("trial", {}), spec.trial) for label, point in spec.table.items()
        }
        if whole != spec.table:
            update |= {"points": whole, "grid": None}
        return spec.model_copy(update=update)

    @property
    def table(self) -> dict[str, dict[str, object]]:
        """The points of a table by their labels, each with what differs from `trial`; empty where a space proposes."""
        return self.points or combined(self.grid or {})

    def plain(self) -> dict[str, object]:
        """Nested plain values, ready for YAML; `parse` gives the spec back."""
        return self.model_dump(mode="json", exclude={"space", "trials"} if self.table else None)


def check_workers(resources: Resources, trial: c.TrialConfig) -> None:
    """Raises UserError where a trial has fewer shards than the smallest number of workers."""
    try:
        trial.train.require_shards(resources.smallest, f"resources.workers = {resources.workers}")
    except UserError as error:
        raise UserError(f"{error}{sexagesimal_hint(resources.workers)}") from None


def width_note(spec: SearchSpec) -> str:
    """Returns a line that says why trials never get the upper end of `resources.workers`; "" where they may get it.

    The points of a table may have other batches, and so other widths.
    """
    resources, shards = spec.resources, spec.trial.train.num_shards
    widest = resources.widths(shards)[-1]
    if widest == resources.largest:
        return ""
    multiples = resources.largest // resources.smallest * resources.smallest == widest
    why = f"widths are multiples of {resources.smallest}" if multiples else f"a batch has {shards} shards"
    return f"resources.workers = {resources.workers}: trials get at most {widest} workers, for {why}"


def parse(given: Mapping[str, object]) -> SearchSpec:
    """Validates nested values.

    Raises:
        UserError: a line for each fault, with key, value, rule and the nearest valid name.
    """
    return validated(SearchSpec, given)
