"""TensorBoard: a run for each trial, through torch's SummaryWriter, with hparams from the trial's start on."""

import contextlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import tune
from torch.utils.tensorboard import FileWriter, SummaryWriter
from torch.utils.tensorboard.summary import hparams

from trainables.settings import flat
from tuner.runs import Run
from tuner.spec import METRICS, SearchSpec

TAGS = {  # metric -> tag; the order is that of the board
    **{metric: f"score/{metric}" for metric in METRICS if metric != "loss"},
    "loss": "train/loss",
    "lr": "train/learning_rate",
    "weight_decay": "train/weight_decay",
    "time/images_per_second": "train/images_per_second",
    "momentum": "teacher/momentum",
    "alpha": "teacher/alpha",
    "p": "teacher/p",
    "teacher_distance": "teacher/distance_to_student",
    "embedding_std": "monitor/embedding_std",
}


class TrialWriter:
    """The curves of one trial. A trial that is continued tells its history again, so its folder is written anew."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], score: str):
        shutil.rmtree(folder, ignore_errors=True)
        self.writer = SummaryWriter(str(folder), flush_secs=5)
        self.epoch = 0
        shown = {key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in settings.items()}
        start, session, self.end = hparams(shown, {TAGS[score]: 0.0})
        for summary in (start, session):
            self._events.add_summary(summary)
        self.writer.flush()

    def add(self, metrics: Mapping[str, Any]) -> None:
        """Curves over steps; an epoch that is told again is passed over."""
        if metrics["epoch"] <= self.epoch:
            return
        self.epoch = metrics["epoch"]
        tags = TAGS | {metric: metric for metric in metrics if "/" in metric and metric not in TAGS and not metric.startswith("time/")}
        for metric, tag in tags.items():
            if metric in metrics:
                self.writer.add_scalar(tag, metrics[metric], int(metrics["step"]))
        self.writer.flush()

    def close(self) -> None:
        self._events.add_summary(self.end)
        self.writer.close()

    @property
    def _events(self) -> FileWriter:
        """The writer below, which takes summaries as they are; open until `close`."""
        assert self.writer.file_writer is not None
        return self.writer.file_writer


class TensorBoard(tune.Callback):
    """Follows the trials of a search; lives in the driver's process."""

    def __init__(self, run: Run, spec: SearchSpec):
        self.run, self.spec = run, spec
        self.writers: dict[str, TrialWriter] = {}

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        key = trial.config["key"]
        if key not in self.writers:
            point = trial.config["point"]
            settings = ({} if point is None else {"point": point}) | flat(trial.config["trial"])
            self.writers[key] = TrialWriter(self.run.tensorboard_folder / key, settings, self.spec.objective.metric)

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        if result["metrics"]:  # a trial may fail before it has any
            self.writers[trial.config["key"]].add(result["metrics"])

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._close(trial)

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._close(trial)

    def _close(self, trial: Any) -> None:
        with contextlib.suppress(KeyError):
            self.writers.pop(trial.config["key"]).close()

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks; open files stay out of it."""
        return {}
