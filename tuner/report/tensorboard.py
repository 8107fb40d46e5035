"""TensorBoard: a run for each trial and one for the untrained encoder, written while the search runs."""

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import yaml

from trainables.config import trial as c
from tuner.plan.objective import Objective
from tuner.report.searched import Searched
from tuner.report.summaries import Column, Events, Facts
from tuner.report.tags import BEST, COLLAPSED, EPOCH, LOSS, score, tags_of
from tuner.report.trace_curves import TraceCurves
from tuner.runs.run import BASELINE, Run
from tuner.search.collapse import collapsed
from tuner.search.study import Metrics, Proposal, Study

VIEWS = "What student and teacher see: a row for each image, a column for each view, with who looks at it above."


class TrialWriter:
    """Writes the board of one trial. A trial that is continued tells its history again, so its folder is written anew.

    Args:
        folder: of this board alone, inside the folder that TensorBoard reads.
        config: of the trial.
        objective: of the search.
        columns: of HPARAMS; without any it does not list the trial.
        facts: the trial's values there, by key.
        trial: the trial's folder, where its traces are.
    """

    def __init__(
        self,
        folder: Path,
        config: c.TrialConfig,
        objective: Objective,
        columns: Sequence[Column] = (),
        facts: Facts = MappingProxyType({}),
        trial: Path | None = None,
    ):
        self.config, self.objective = config, objective
        self.traces = None if trial is None or config.monitors.every is None else TraceCurves(trial)
        self.events = Events(folder)
        if columns:
            self.events.begin(columns, facts)
        self.events.text(
            "configuration", as_markdown(config.plain()), "All that the trial is a function of, besides its data."
        )
        self.epoch, self.best = 0, math.nan
        self.events.scalar(EPOCH, 0, 0)
        self.events.flush()

    def add(self, metrics: Metrics) -> None:
        """Adds the points of an epoch; an epoch that is told again is passed over."""
        if metrics["epoch"] <= self.epoch:
            return
        self.epoch, step, at = metrics["epoch"], metrics["step"], metrics.get("time/measured_at")
        traced = {} if self.traces is None else self.traces.until(step)
        for metric, tag in tags_of(metrics, self.config.teacher).items():
            for point_step, value in traced.get(metric) or [(step, metrics[metric])]:
                self.events.scalar(tag, value, point_step, at)
        # histories of earlier versions have no curve
        for loss_step, loss in metrics.get("loss_curve") or [[step, metrics["loss"]]]:
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
        """Shows the figures of its traces, notes that the trial has ended, and closes the file."""
        if self.traces is not None:
            for name, text, encoded in self.traces.figures(self.config):
                self.events.picture(name, encoded, text)
        self.events.end(failed)
        self.events.close()


class TensorBoard:
    """Writes the boards of a search, as a `Listener` in the driver's process.

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

    def trial_began(self, proposal: Proposal) -> None:
        """Opens the trial's board, unless it is open already."""
        key, config = proposal.key, proposal.config
        if key in self.writers:
            return
        facts = self.searched.facts(proposal.point, proposal.values, config)
        folder = self._folder(key, self.searched.run_name(key, facts, config))
        self.writers[key] = TrialWriter(
            folder, config, self.spec.objective, self.searched.columns, facts, self.run.trial_folder(key)
        )

    def epoch_heard(self, proposal: Proposal, metrics: Metrics) -> None:
        """Adds an epoch to the trial's board."""
        self._show_views(self.writers[proposal.key], proposal.key)
        self.writers[proposal.key].add(metrics)
        self._draw_untrained(round(metrics["step"] / metrics["epoch"]), proposal.config.train.epochs)

    def trial_ended(self, proposal: Proposal, error: str | None) -> None:
        """Closes the trial's board."""
        with contextlib.suppress(KeyError):
            self.writers.pop(proposal.key).close(error is not None)

    def search_ended(self) -> None:
        """Closes the board of the untrained encoder."""
        self.untrained.close()

    def _folder(self, key: str, name: str) -> Path:
        earlier = sorted(
            path
            for path in self.run.tensorboard_folder.iterdir()
            if path.name == key or path.name.startswith(f"{key} ")
        )
        return earlier[0] if earlier else self.run.tensorboard_folder / name

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

        There is a point for each epoch: TensorBoard takes the ends of a line of two points for outliers, and leaves
        them out of its charts.
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


def as_markdown(content: Mapping[str, object]) -> str:
    """Nested values as a block of YAML."""
    return f"```yaml\n{yaml.safe_dump(content, sort_keys=False, allow_unicode=True)}```"


def _augmentation(config: c.TrialConfig) -> str:
    """What a trial's picture of views depends on, less the seed."""
    sections = config.model_dump(mode="json", include={"data", "views", "method"})
    return json.dumps([sections, bool(config.teacher.placement)])
