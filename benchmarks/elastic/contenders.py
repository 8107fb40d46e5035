"""The contenders: how each is launched on a cluster, and where its trials are afterwards."""

import abc
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import yaml

from benchmarks.elastic.trials import Trials

RAY_TRAIN = {
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10",  # 60 by default, and lost when a node goes
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # 2 by default
}


class Contender(abc.ABC):
    """A way to run the trials on a cluster whose nodes come and go.

    Attributes:
        name: for the command line and for files.
        title: for the table and the picture.
        variables: of the environment of the cluster.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    variables: ClassVar[dict[str, str]] = {"OMP_NUM_THREADS": "1"}

    @abc.abstractmethod
    def command(self, trials: Trials, address: str, folder: Path) -> list[str]:
        """The command that runs the trials, with what it needs written to a folder."""

    @abc.abstractmethod
    def folders(self, folder: Path) -> list[Path]:
        """The folders of the trials, with their checkpoints and logs."""

    def start(self, trials: Trials, address: str, folder: Path) -> subprocess.Popen[bytes]:
        """Launches the search. What it prints goes to `folder`/output.log."""
        with (folder / "output.log").open("wb") as output:
            return subprocess.Popen(
                self.command(trials, address, folder),
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.variables, "RAY_ADDRESS": address},
                start_new_session=True,
            )


class _Tuner(Contender):
    """`tuner launch` with some resources."""

    resources: ClassVar[dict[str, Any]]

    def command(self, trials: Trials, address: str, folder: Path) -> list[str]:
        spec = folder / "search.yaml"
        spec.write_text(yaml.safe_dump(trials.search(self.resources), sort_keys=False))
        launch = ["launch", str(spec), "--address", address, "--run", str(folder / "run")]
        return [sys.executable, "-m", "tuner.commands.main", *launch]

    def folders(self, folder: Path) -> list[Path]:
        return sorted((folder / "run" / "trials").glob("[0-9]*"))


class LentSlots(_Tuner):
    """Slots of one worker, of which a trial holds one or two, on all nodes that are there."""

    name, title = "lent", "lent slots (`workers: 1-2`)"
    resources: ClassVar[dict[str, Any]] = {"workers": "1-2"}


class FixedSlots(_Tuner):
    """As many slots as there were at the launch: one."""

    name, title = "fixed", "fixed slots (`max_slots: 1`)"
    resources: ClassVar[dict[str, Any]] = {"workers": 1, "max_slots": 1}


class StockRay(Contender):
    """Ray Tune with an elastic TorchTrainer a trial, as a user of Ray would write it."""

    name, title = "ray", "Ray Tune + Ray Train (`num_workers=(1, 2)`)"
    variables: ClassVar[dict[str, str]] = Contender.variables | RAY_TRAIN

    def command(self, trials: Trials, address: str, folder: Path) -> list[str]:
        spec = folder / "trials.yaml"
        spec.write_text(yaml.safe_dump(trials.configs, sort_keys=False))
        return [sys.executable, "-m", "benchmarks.elastic.stock", str(spec), address, str(folder)]

    def folders(self, folder: Path) -> list[Path]:
        return sorted(path for path in (folder / "trials").glob("*") if path.is_dir())


CONTENDERS: dict[str, Contender] = {one.name: one for one in (LentSlots(), FixedSlots(), StockRay())}
