"""SearchSpec: a search's YAML, validated before anything is started."""

import math
import pkgutil
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ModelWrapValidatorHandler, field_validator, model_validator

import search_spaces
from trainables.config import evaluation as evaluation_config
from trainables.config import trial as c
from trainables.config.errors import UserError, nearest, shown
from trainables.config.evaluation import PROTOCOLS
from trainables.config.sections import Epochs
from trainables.config.settings import dotted_keys, flat, read_settings, read_yaml, validated, with_values
from trainables.data.check import check_data
from tuner.plan import jobs
from tuner.plan.table import combined, completed, set_by_hand

METRICS: dict[str, Literal["max", "min"]] = {  # and whether more or less of one is better
    **{metric: mode for kind in PROTOCOLS.values() for metric, mode in kind.METRICS.items()},
    "loss": "min",
}
MOST_POINTS = 500
MOST_TRIALS = 10_000
LONGEST_NAME = 100  # characters of a search's name, which folders are called by
LONGEST_LABEL = 200  # characters of a point's label
HOST_AND_PORT = re.compile(
    r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*):(?P<port>[0-9]{1,5})"
)
SPACES = sorted(module.name for module in pkgutil.iter_modules(search_spaces.__path__) if not module.ispkg)
CONTINUABLE = (
    "trials",
    "seeds",
    "address",
    "resources",
    "trial.data.root",
    "trial.data.download",
    "trial.data.loaders",
)
OF_NO_TRIAL = (
    *CONTINUABLE,
    "name",
    "trial.train.checkpoint_steps",
    "trial.train.keep_checkpoints",
)  # keys that make no trial another

ABSENT = object()

DURATION = re.compile(r"[0-9]{1,6}(\.[0-9]{1,3})?[smh]")
LEAST_PATIENCE = 10  # seconds: more than the ranks of a trial take to agree on a fault


def _metric(name: str) -> str:
    if name not in METRICS:
        raise ValueError(f"no such metric{nearest(name, METRICS)}")
    return name


def _names(folder: str) -> tuple[str, ...]:
    """Names of the stoppers or samplers: of the files in a folder of tuner/search, found without importing them."""
    path = Path(__file__).parents[1] / "search" / folder
    return tuple(sorted(module.name for module in pkgutil.iter_modules([str(path)]) if module.name != "base"))


if TYPE_CHECKING:
    StopperName = str
    SamplerName = str
else:
    StopperName = Literal[_names("stoppers")]
    SamplerName = Literal[_names("samplers")]


class Objective(c.Section):
    """What a search optimises."""

    SHORT: ClassVar[str] = "metric"

    metric: Annotated[str, AfterValidator(_metric), Field(json_schema_extra={"enum": list(METRICS)})] = "knn_top1"
    """A metric of a trial's last epoch: its loss, or what one of trial.evaluation.protocols gives.

    Where it is not given it is classifier_top1 of a method that classifies, and kNN's score of all others.
    """

    @property
    def mode(self) -> Literal["max", "min"]:
        return METRICS[self.metric]


class Stopping(c.Section):
    """ASHA: from `grace_epochs` on, at each rung the best 1/reduction of the trials go on.

    "none" runs every trial to its end.
    """

    SHORT: ClassVar[str] = "kind"

    kind: StopperName = "asha"
    """Who stops trials early; none runs every trial to its end."""
    grace_epochs: Epochs = 2
    """Epochs that no trial is stopped before."""
    reduction: Annotated[int, Field(ge=2, le=1000)] = 3
    """At each rung the best 1/reduction of the trials go on."""


class Sampler(c.Section):
    """Who proposes. TPE draws at random until `startup_trials` have ended."""

    SHORT: ClassVar[str] = "kind"

    kind: SamplerName = "tpe"
    """Who proposes."""
    startup_trials: Annotated[int, Field(ge=1, le=MOST_TRIALS)] = 8
    """Trials that have to end before TPE does more than draw at random."""


def _duration(given: object) -> str:
    """Checks a duration as it is written; text in general has another rule."""
    if not isinstance(given, str) or not DURATION.fullmatch(given) or _seconds(given) < LEAST_PATIENCE:
        raise ValueError(f"must be a duration of at least {LEAST_PATIENCE}s, such as 90s, 10m or 2h")
    return given


def _seconds(duration: str) -> float:
    return float(duration[:-1]) * {"s": 1, "m": 60, "h": 3600}[duration[-1]]


class Resources(c.Section):
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
        check_workers(self.resources.workers, self.trial)
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


def first_metric(trial: c.TrialConfig) -> str:
    """What shows how a trial is doing: its classifier's score, else kNN's, else the first that its protocols give."""
    given = [metric for name in trial.evaluation.protocols for metric in PROTOCOLS[name].METRICS]
    return next((metric for metric in ("classifier_top1", "knn_top1") if metric in given), given[0])


def check_workers(workers: int, trial: c.TrialConfig) -> None:
    """Raises UserError where a trial has fewer shards than `workers`."""
    trial.train.require_shards(workers, f"resources.workers = {workers}")


def parse(given: Mapping[str, object]) -> SearchSpec:
    """Validates nested values.

    Raises:
        UserError: a line for each fault, with key, value, rule and the nearest valid name.
    """
    return validated(SearchSpec, given)


def read(path: Path, settings: Iterable[str]) -> SearchSpec:
    """A search's file as `described` gives it, whose data are there.

    Relative data folders and files of spaces are taken from the working folder.

    Raises:
        UserError: the file or a setting is at fault, or the data are missing.
    """
    return settled(described(path, settings))


def described(path: Path, settings: Iterable[str]) -> SearchSpec:
    """A search's file with settings from the command line.

    Keys of `trial` that are set so count in every point of a table.

    Raises:
        UserError: the file or a setting is at fault.
    """
    values = read_settings(settings)
    if "trial" in values:
        rule = "would replace all that the file says of its trials; set keys of it, such as trial.train.epochs=20"
        raise UserError(f"--set trial: {rule}")
    content = {"address": jobs.default_address(), **with_values(read_yaml(path), values, SearchSpec)}
    return parse(set_by_hand(content, values))


def continued(content: Mapping[str, object], settings: Iterable[str]) -> SearchSpec:
    """The spec of an interrupted run, with what may change without its trials becoming others.

    Raises:
        UserError: another key is to be changed, or fewer trials are wanted than before.
    """
    changes, before = read_settings(settings), parse(content)
    if before.address == "local":  # it was launched elsewhere
        changes.setdefault("address", jobs.default_address())
    if odd := [key for key in changes if not key.startswith(CONTINUABLE)]:
        raise UserError(f"--set {odd[0]}: a run that goes on keeps it; can be changed: {', '.join(CONTINUABLE)}")
    after = settled(parse(with_values(before.plain(), changes, SearchSpec)))
    key = "seeds" if before.table else "trials"
    if (wanted := getattr(after, key)) < (had := getattr(before, key)):
        raise UserError(f"{key} = {wanted}: the search was launched with {had}, and can only get more")
    return after


def require_same(launched: Mapping[str, object], spec: SearchSpec) -> None:
    """Compares a search with what it was launched with; a key that is newer than the launch is passed over.

    Args:
        launched: nested values of the spec, as they were at the launch.
        spec: as it is now.

    Raises:
        UserError: a key that makes a trial what it is has changed; a line for each.
    """
    now, faults = spec.plain(), []
    for key in dotted_keys(SearchSpec):
        values = [_value(launched, key), _value(now, key)]
        if ABSENT in values or key.startswith(OF_NO_TRIAL):
            continue
        before, after = (flat(value, f"{key}.") if isinstance(value, Mapping) else {key: value} for value in values)
        for part in sorted(before.keys() | after.keys()):
            if before.get(part) != after.get(part):
                rule = f"was {before.get(part)!r} at the launch; trials of both cannot be compared, so put it back"
                faults.append(f"{part} = {after.get(part)!r}: {rule}")
    if faults:
        raise UserError("\n".join(faults))


def _value(nested: object, dotted: str) -> object:
    """The value of a dotted key; None where a section that could hold it is None, ABSENT where there is no such key."""
    for part in dotted.split("."):
        if nested is None:
            return None
        if not isinstance(nested, Mapping) or part not in nested:
            return ABSENT
        nested = nested[part]
    return nested


def spec_key(error: str) -> str:
    """An error of a trial's data or length with its key as a search spells it."""
    return f"trial.{error}" if error.startswith(("data.", "train.")) else error


def settled(spec: SearchSpec) -> SearchSpec:
    """The spec with its data folder as an absolute path, for workers have another working folder; the data is there.

    Raises:
        UserError: it is not.
    """
    root = spec.trial.data.root
    try:
        jobs.require_data_kept(spec.trial.data)
        check_data(spec.trial)
    except UserError as error:
        raise UserError(spec_key(str(error))) from None
    return (
        spec
        if root is None
        else parse(with_values(spec.plain(), {"trial.data.root": str(root.absolute())}, SearchSpec))
    )
