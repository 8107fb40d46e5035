"""TensorBoard: a run for each trial and one for the untrained encoder, written while the search runs."""

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from ray import tune

from trainables.config import trial as c
from tuner.plan.spec import Objective
from tuner.report.searched import Searched
from tuner.report.summaries import Column, Events
from tuner.report.tags import BEST, COLLAPSED, EPOCH, LOSS, score, tags_of
from tuner.runs.run import BASELINE, Run
from tuner.search.collapse import collapsed
from tuner.search.study import Study

VIEWS = "What student and teacher see: a row for each image, a column for each view, with who looks at it above."


class TrialWriter:
    """The board of one trial. A trial that is continued tells its history again, so its folder is written anew.

    Args:
        folder: of its own, in the folder that TensorBoard is given.
        config: of the trial.
        objective: of the search.
        columns: of HPARAMS; without any it does not list the trial.
        facts: the trial's values there, by key.
    """

    def __init__(
        self,
        folder: Path,
        config: c.TrialConfig,
        objective: Objective,
        columns: Sequence[Column] = (),
        facts: Mapping[str, Any] = MappingProxyType({}),
    ):
        self.config, self.objective = config, objective
        self.events = Events(folder)
        if columns:
            self.events.begin(columns, facts)
        self.events.text(
            "configuration", as_markdown(config.plain()), "All that the trial is a function of, besides its data."
        )
        self.epoch, self.best = 0, math.nan
        self.events.scalar(EPOCH, 0, 0)
        self.events.flush()

    def add(self, metrics: Mapping[str, Any]) -> None:
        """An epoch's points; one that is told again is passed over."""
        if metrics["epoch"] <= self.epoch:
            return
        self.epoch, step, at = metrics["epoch"], metrics["step"], metrics.get("time/measured_at")
        for metric, tag in tags_of(metrics, self.config.teacher).items():
            self.events.scalar(tag, metrics[metric], step, at)
        for loss_step, loss in metrics.get("loss_curve") or [
            [step, metrics["loss"]]
        ]:  # histories of earlier versions have no curve
            self.events.scalar(LOSS, loss, loss_step, at)
        own = metrics[self.objective.metric]
        if self.objective.metric == "loss":
            self.events.scalar(score("loss"), own, step, at)
        better = max if self.objective.mode == "max" else min
        self.best = own if math.isnan(self.best) else better(self.best, own)
        self.events.scalar(BEST, self.best, step, at)
        self.events.scalar(EPOCH, self.epoch, step, at)
        self.events.scalar(COLLAPSED, collapsed(metrics, self.config.encoder.projector.prototypes), step, at)
        self.events.flush()

    def show_views(self, file: Path) -> None:
        """Shows the picture of views, where the trial has drawn it."""
        if file.is_file():
            self.events.image("views", file, VIEWS)

    def close(self, failed: bool = False) -> None:
        """The trial has ended."""
        self.events.end(failed)
        self.events.close()


class TensorBoard(tune.Callback):
    """Follows the trials of a search; lives in the driver's process.

    Args:
        run: its folders are named after trials; a trial that has one from an earlier session keeps it.
        study: of the run.
    """

    def __init__(self, run: Run, study: Study):
        self.run, self.study, self.spec = run, study, study.spec
        self.searched = Searched(study.spec, study.space, study.trials())
        self.writers: dict[str, TrialWriter] = {}
        self.pictured: set[str] = set()
        self.line_end = -1  # step to which the line of the untrained encoder is drawn
        self.untrained = self._untrained()

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        key = trial.config["key"]
        if key in self.writers:
            return
        values = self.study.trials()[int(key)].user_attrs["values"]
        config = c.parse(trial.config["trial"])
        facts = self.searched.facts(trial.config["point"], values, config)
        folder = self._folder(key, self.searched.run_name(key, facts, config))
        self.writers[key] = TrialWriter(folder, config, self.spec.objective, self.searched.columns, facts)

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
        metrics, key = result["metrics"], trial.config["key"]
        if not metrics:  # a trial may fail before it has any
            return
        self._show_views(self.writers[key], key)
        self.writers[key].add(metrics)
        self._draw_untrained(round(metrics["step"] / metrics["epoch"]), trial.config["epochs"])

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._close(trial, bool((trial.last_result or {}).get("error")))

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._close(trial, failed=True)

    def on_experiment_end(self, trials: list, **info: Any) -> None:
        self.untrained.close()

    def _close(self, trial: Any, failed: bool) -> None:
        with contextlib.suppress(KeyError):
            self.writers.pop(trial.config["key"]).close(failed)

    def _folder(self, key: str, name: str) -> Path:
        found = sorted(
            path
            for path in self.run.tensorboard_folder.iterdir()
            if path.name == key or path.name.startswith(f"{key} ")
        )
        return found[0] if found else self.run.tensorboard_folder / name

    def _untrained(self) -> Events:
        """The run of the untrained encoder, with what belongs to the search as a whole."""
        events, metric = Events(self.run.tensorboard_folder / BASELINE), self.spec.objective.metric
        metrics = {score(metric): metric, BEST: f"best {metric}", EPOCH: "epochs", COLLAPSED: "collapsed"}
        events.experiment(self.searched.columns, {tag.name: title for tag, title in metrics.items()})
        events.text(
            "search",
            as_markdown(self.spec.plain()),
            "What was asked for: what trials have in common, and who proposes the rest.",
        )
        views = self.run.trial_views(BASELINE)
        if views.is_file():
            events.image("views", views, VIEWS)
            self.pictured.add(_augmentation(self.spec.trial))
        events.flush()
        return events

    def _draw_untrained(self, per_epoch: int, epochs: int) -> None:
        """Draws the scores of the untrained encoder as lines from step 0 to the last step of the longest trial.

        There is a point for each epoch: of a line of two points TensorBoard makes outliers, and leaves them out of its charts.
        """
        if per_epoch * epochs <= self.line_end:
            return
        scores = self.run.read_baseline() or {}
        curves = {tag: scores[metric] for metric, tag in tags_of(scores, self.spec.trial.teacher).items()}
        if self.spec.objective.metric in scores:
            curves[BEST] = scores[self.spec.objective.metric]
        for tag, value in curves.items():
            for step in (step for step in range(0, per_epoch * epochs + 1, per_epoch) if step > self.line_end):
                self.untrained.scalar(tag, value, step)
        self.line_end = per_epoch * epochs
        self.untrained.flush()

    def _show_views(self, writer: TrialWriter, key: str) -> None:
        """Shows a trial's views, unless an earlier trial has the same augmentation."""
        kind = _augmentation(writer.config)
        if kind not in self.pictured:
            self.pictured.add(kind)
            writer.show_views(self.run.trial_views(key))

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks; open files stay out of it."""
        return {}


def as_markdown(content: Mapping[str, Any]) -> str:
    """Nested values as a block of YAML."""
    return f"```yaml\n{yaml.safe_dump(content, sort_keys=False, allow_unicode=True)}```"


def _augmentation(config: c.TrialConfig) -> str:
    """What a trial's picture of views depends on, less the seed."""
    sections = config.model_dump(mode="json", include={"data", "views", "method"})
    return json.dumps([sections, bool(config.teacher.placement)])
