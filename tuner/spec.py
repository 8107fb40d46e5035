"""SearchSpec: a search's YAML, validated before anything is started."""

import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from trainables import config as c
from trainables.errors import UserError, explain
from trainables.settings import read_settings, read_yaml, section_keys, with_values

ADDRESS_TIMEOUT = 5.0  # seconds for a Ray head to accept a connection
JOIN_TIMEOUT = 20.0  # seconds for a process to join its cluster


class Objective(c.Section):
    """What a search optimises: the metric of a trial's last epoch."""

    metric: Literal["knn_top1", "loss"] = "knn_top1"

    @property
    def mode(self) -> Literal["max", "min"]:
        return "min" if self.metric == "loss" else "max"


class Stopping(c.Section):
    """ASHA: from `grace_epochs` on, at each rung the best 1/reduction of the trials go on; "none" runs every trial to its end."""

    kind: Literal["asha", "none"] = "asha"
    grace_epochs: c.Count = 2
    reduction: Annotated[int, Field(ge=2)] = 3


class Sampler(c.Section):
    """Who proposes. TPE draws at random until `startup_trials` have ended."""

    kind: Literal["tpe", "random"] = "tpe"
    startup_trials: c.Count = 8


class Resources(c.Section):
    """What a trial gets; `concurrent_trials` is as many as fit where it is not given."""

    workers: c.Count = 1
    cpus_per_worker: c.Count = 1
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0
    concurrent_trials: c.Count | None = None
    restarts: Annotated[int, Field(ge=0)] = 3

    @model_validator(mode="after")
    def _whole_gpus(self) -> Self:
        if self.gpus_per_worker > 1 or (self.gpus_per_worker % 1 and self.workers > 1):
            rule = "a worker uses one GPU, and only a single worker may share one"
            raise ValueError(f"resources.gpus_per_worker = {self.gpus_per_worker}: {rule}")
        return self


class SearchSpec(c.Section):
    """A search. `trial` holds what its trials have in common; the space proposes the rest. `address`: "local", "auto" or host:port."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")] = "search"
    space: str = "teacher"
    trials: c.Count = 20
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    address: str = "local"
    trial: c.TrialConfig = c.TrialConfig()
    objective: Objective = Objective()
    stopping: Stopping = Stopping()
    sampler: Sampler = Sampler()
    resources: Resources = Resources()

    @field_validator("address")
    @classmethod
    def _reachable_form(cls, address: str) -> str:
        host, colon, port = address.rpartition(":")
        if address not in ("local", "auto") and not (host and colon and port.isdigit() and "/" not in host):
            raise ValueError("must be 'local', 'auto' or host:port of a Ray head")
        return address

    @model_validator(mode="after")
    def _fits(self) -> Self:
        check_workers(self.resources.workers, self.trial)
        if self.trial.train.epochs < 1:
            raise ValueError("trial.train.epochs = 0: a search needs at least 1 epoch")
        return self

    def plain(self) -> dict[str, Any]:
        """Nested plain values, ready for YAML; `parse` gives the spec back."""
        return self.model_dump(mode="json")


def check_workers(workers: int, trial: c.TrialConfig) -> None:
    """Raises ValueError where there are more workers than shards to deal to them."""
    if workers > trial.train.num_shards:
        train = trial.train
        raise UserError(
            f"resources.workers = {workers}: more than the {train.num_shards} shards of a batch "
            f"(train.batch_size {train.batch_size} / train.shard_size {train.shard_size})"
        )


def parse(given: Mapping[str, Any]) -> SearchSpec:
    """Validates nested values.

    Raises:
        UserError: a line for each fault, with key, value, rule and the nearest valid name.
    """
    try:
        return SearchSpec.model_validate(given)
    except ValidationError as error:
        raise explain(error, section_keys(SearchSpec)) from None


def read(path: Path, settings: Iterable[str]) -> SearchSpec:
    """A search's file with settings from the command line; relative data folders and space files are taken from the working folder.

    Raises:
        UserError: the file or a setting is at fault, or the data is missing.
    """
    values = with_values(read_yaml(path), read_settings(settings), SearchSpec)
    spec = parse(values)
    return parse({**spec.plain(), "trial": settled(spec.trial).plain()})


def settled(trial: c.TrialConfig) -> c.TrialConfig:
    """The trial with its data folder as an absolute path, for workers have another working folder; the data is there."""
    if trial.data.root is not None:
        trial = c.changed(trial.plain(), {"data.root": str(trial.data.root.expanduser().absolute())})
    trial.check_data()
    return trial


def check_address(address: str) -> None:
    """Raises UserError where nothing answers at host:port, long before Ray itself would give up."""
    if address in ("local", "auto"):
        return
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=ADDRESS_TIMEOUT).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"address = '{address}': no Ray head answers there ({error})") from None
    # what accepts a connection may be something else, on which Ray would hang: a child tries, and can be ended
    trial = [sys.executable, "-c", f"import ray; ray.init({address!r}, log_to_driver=False, configure_logging=False)"]
    try:
        subprocess.run(trial, timeout=JOIN_TIMEOUT, check=True, capture_output=True)
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
        raise UserError(f"address = '{address}': something answers there, but a Ray cluster could not be joined") from None
