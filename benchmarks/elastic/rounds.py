"""One round: a contender runs the trials while the script of events happens to its nodes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.elastic import nodes as cluster
from benchmarks.elastic.contenders import Contender
from benchmarks.elastic.measure import Stretch, stretches_in
from benchmarks.elastic.nodes import Event
from benchmarks.elastic.trials import Trials
from trainables.running.checkpoint_header import config_in, history_in

LOOK = 0.2  # seconds between two looks at the processes
OWN = ("time/", "slot")  # metrics that are no function of the trial
History = list[dict[str, Any]]


@dataclass(frozen=True)
class Round:
    """What a contender did. Times are of the machine's clock.

    Attributes:
        contender: its name.
        begun: when it was launched.
        over: when its process ended.
        status: its exit status; None if it was ended because it took too long.
        load: of the machine at the launch.
        happened: to the nodes.
        stretches: of training.
        equal: how many trials have the metrics of the reference in every epoch, bit for bit.
        trials: how many there should be.
    """

    contender: str
    begun: float
    over: float
    status: int | None
    load: float
    happened: tuple[Event, ...]
    stretches: tuple[Stretch, ...]
    equal: int
    trials: int

    def write(self, path: Path) -> None:
        """Writes it as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def read(cls, path: Path) -> "Round":
        """Reads what `write` wrote."""
        values = json.loads(path.read_text())
        happened = tuple(Event(**event) for event in values.pop("happened"))
        return cls(happened=happened, stretches=tuple(Stretch(**one) for one in values.pop("stretches")), **values)


def play(
    contender: Contender,
    trials: Trials,
    events: Sequence[Event],
    folder: Path,
    reference: dict[str, History],
    limit: float,
) -> Round:
    """Launches a contender, has the events happen, and waits for its end.

    Args:
        contender: which.
        trials: that it runs.
        events: by the time since the launch, in order.
        folder: an empty one for all that it writes.
        reference: history of each trial on one quiet node, by label.
        limit: seconds after which it is ended.
    """
    with cluster.nodes(contender.variables) as made:
        load, begun, left = os.getloadavg()[0], time.time(), list(events)
        search = contender.start(trials, made.address, folder)
        try:
            while search.poll() is None and time.time() < begun + limit:
                made.look()
                if left and time.time() >= begun + left[0].at:
                    made.apply(left.pop(0))
                    print(f"  {made.happened[-1].at - begun:6.1f} s: {made.happened[-1]}", flush=True)
                time.sleep(LOOK)
            over, status = time.time(), search.poll()
        finally:
            _end(search)
        made.look()
        found = [(path, _label(path, trials)) for path in contender.folders(folder)]
        done = [one for path, label in found if label for one in stretches_in(path, label, made.processes)]
        histories = {label: history_in(path) for path, label in found if label}
        happened = tuple(made.happened)
    equal = sum(same(histories.get(label, []), history) for label, history in reference.items())
    return Round(contender.name, begun, over, status, load, happened, tuple(done), equal, trials.count)


def reference(trials: Trials, folder: Path) -> dict[str, History]:
    """Trains each trial alone in one process without Ray, or reads what was trained before; returns the histories."""
    for label, config in trials.configs.items():
        path = folder / label
        path.mkdir(parents=True, exist_ok=True)
        if len(history_in(path)) < trials.epochs:
            (path / "trial.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
            command = [
                sys.executable,
                "-m",
                "trainables.running.train",
                str(path / "trial.yaml"),
                "--folder",
                str(path),
            ]
            with (path / "output.log").open("wb") as output:
                environment = {**os.environ, **Contender.variables}
                subprocess.run(command, check=True, stdout=output, stderr=subprocess.STDOUT, env=environment)
    return {label: history_in(folder / label) for label in trials.configs}


def same(history: History, other: History) -> bool:
    """Whether two trials have the same metrics in all epochs, bit for bit. Times are not compared."""
    return bool(history) and _without_times(history) == _without_times(other)


def _without_times(history: History) -> History:
    return [{key: value for key, value in metrics.items() if not key.startswith(OWN)} for metrics in history]


def _label(folder: Path, trials: Trials) -> str | None:
    """The label of the trial in a folder, by the configuration in its checkpoints."""
    config = config_in(folder)
    if config is None or not config["train"]["epochs"]:
        return None
    momenta = {point["teacher.momentum"]["base"]: label for label, point in trials.points.items()}
    return momenta.get(config["teacher"]["momentum"]["base"])


def _end(search: "subprocess.Popen[bytes]") -> None:
    """Ends a contender that is still there, with all that it has started itself."""
    if search.poll() is None:
        os.killpg(search.pid, signal.SIGKILL)
        search.wait()
