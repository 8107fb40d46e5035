"""Makes views of a run from its directory alone."""

import statistics
import threading
import time
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass, replace

from optuna.trial import FrozenTrial, TrialState

from tuner.plan.points import label_of
from tuner.report import certainty, timing
from tuner.report.beside import beside
from tuner.report.certainty import Interval
from tuner.report.points import PointView, summary
from tuner.report.view import RunView, TrialView, best_of
from tuner.runs.fleet_state import FleetState
from tuner.runs.run import Run
from tuner.search.records import is_paused
from tuner.search.study import Study, key_of

STATES = {
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "stopped",
    TrialState.FAIL: "failed",
}


def view_of(run: Run, study: Study) -> RunView:
    """The view of a run at this moment."""
    return replace(Viewer(run, study).view(), paper=beside(run, study))


@dataclass(frozen=True)
class _Facts:
    """What follows from the trials that have ended, and from the sessions before this one.

    Attributes:
        best: the best trial, where one is complete.
        points: of a table.
        gaps: seconds between two trials on a slot.
        pace: seconds that a trial takes.
        before: seconds that all sessions but the last one ran.
    """

    best: FrozenTrial | None
    points: tuple[PointView, ...] | None
    gaps: Sequence[float]
    pace: float | None
    before: float


class Viewer:
    """Makes views of a run, one after the other.

    The row of an ended trial is made once, and statistics are made anew only when a trial ends: a frame of the live
    table costs what runs, not what has ended.

    Args:
        run: the run.
        study: of the run.
    """

    def __init__(self, run: Run, study: Study):
        self.run, self.study = run, study
        self._sign = -1 if study.spec.objective.mode == "max" else 1  # by which the best scores come first
        self._images: int | None = None
        self._lock = threading.RLock()  # the screen draws in a thread of its own
        self._forget()

    def view(self, over: bool = False) -> RunView:
        """The view of all trials.

        Args:
            over: whether this process's session is over, though it still holds the run.
        """
        with self._lock:
            return self._view(over, None)

    def newsworthy(self, count: int, over: bool = False) -> RunView:
        """The view of at most `count` trials, for a screen: those that run first, then the best ones that ended.

        Args:
            count: of trials.
            over: as for `view`.
        """
        with self._lock:
            return self._view(over, count)

    def trial(self, key: str) -> TrialView:
        """The view of one trial."""
        with self._lock:
            held = self.run.held()
            self._look(self._session(held), fleet_now(self.run, held))
            return self._rows[int(key)]

    def _view(self, over: bool, count: int | None) -> RunView:
        run, spec, now = self.run, self.study.spec, time.time()
        held = run.held() and not over
        fleet, now_up = FleetState.read(run.fleet_file), fleet_now(run, held)
        trials, sessions = self._look(self._session(held), now_up), _sessions(run)
        facts, images, metric = self._facts_of(trials, sessions), self._images, spec.objective.metric
        untrained = (run.read_baseline() or {}).get(metric)
        label = label_of(spec, facts.best) if facts.best else None
        score, interval = _best_score(facts, label, metric, images)
        unasked = spec.trials - len(trials)
        return RunView(
            run=run.path,
            name=spec.name,
            space=None if spec.table else spec.space,
            objective=metric,
            mode=spec.objective.mode,
            trials_wanted=spec.trials,
            epochs=spec.trial.train.epochs,
            held=held,
            waits=waits_now(run, now_up),
            ended=len(self._ranked),
            network=spec.trial.evaluation.network,
            validation_images=images,
            trials=tuple(self._rows[number] for number in self._numbers(count)),
            points=facts.points,
            seeds=spec.seeds,
            best=key_of(facts.best) if facts.best else None,
            best_point=label,
            best_score=score,
            best_interval=interval,
            untrained=untrained,
            untrained_interval=certainty.of_score(untrained, metric, images),
            elapsed_s=now - sessions[-1] + facts.before
            if held and sessions
            else timing.elapsed(sessions, trials, None),
            left_s=timing.left(facts.pace, [trials[n] for n in self._open], unasked, now) if held else None,
            gap_median_s=statistics.median(facts.gaps) if facts.gaps else None,
            gaps=len(facts.gaps),
            slots=now_up.slots,
            warnings=now_up.warnings,
            slot_seconds=fleet.slot_seconds if fleet else None,
            utilisation=fleet.utilisation if fleet else None,
        )

    def _forget(self) -> None:
        self._rows: dict[int, TrialView] = {}  # by number of the trial
        self._open: list[int] = []  # numbers of trials that have not ended
        self._ranked: list[tuple[bool, float, int]] = []  # ended trials, best first: (has no score, rank, number)
        self._facts: _Facts | None = None
        self._basis = (0, 0)  # how many trials had ended, in how many sessions, when the facts were made

    def _session(self, held: bool) -> list[float] | None:
        """When the session began that runs now, as a list of at most one; None where nobody runs the search."""
        return _sessions(self.run)[-1:] if held else None

    def _look(self, session: list[float] | None, fleet: FleetState) -> list[FrozenTrial]:
        """Brings the rows up to date; returns all trials."""
        trials = self.study.trials()
        numbers = [*self._open, *range(len(self._rows), len(trials))]
        if self._images is None:
            told = [trials[number].user_attrs.get("metrics", {}) for number in numbers]
            self._images = certainty.images_of([self.run.read_baseline() or {}, *told])
            if self._images is not None:
                self._forget()  # rows without intervals
                numbers = list(range(len(trials)))
        self._open = []
        for number in numbers:
            trial = trials[number]
            workers = fleet.widths.get(key_of(trial))
            self._rows[number] = row = _row(self.run, self.study, trial, self._images, session, workers)
            if trial.state.is_finished():
                insort(self._ranked, (row.score is None, self._sign * (row.score or 0.0), number))
            else:
                self._open.append(number)
        return trials

    def _facts_of(self, trials: Sequence[FrozenTrial], sessions: Sequence[float]) -> _Facts:
        basis = len(self._ranked), len(sessions)
        if self._facts is None or self._basis != basis:
            best, spec = self.study.best(1), self.study.spec
            self._basis = basis
            self._facts = _Facts(
                best=best[0] if best else None,
                points=summary(spec, trials, self._images) if spec.table else None,
                gaps=timing.slot_gaps(trials),
                pace=timing.pace(sessions, trials),
                before=timing.elapsed(sessions, trials, sessions[-1]) or 0.0 if sessions else 0.0,
            )
        return self._facts

    def _numbers(self, count: int | None) -> Sequence[int]:
        """Numbers of the trials to show, in order."""
        if count is None:
            return range(len(self._rows))

        def rank(number: int) -> tuple[bool, bool, float, int]:
            row = self._rows[number]
            return row.state != "running", row.score is None, self._sign * (row.score or 0.0), number

        return sorted(sorted([*self._open, *(number for *_, number in self._ranked[:count])], key=rank)[:count])


def fleet_now(run: Run, held: bool) -> FleetState:
    """The slots that are up now; an empty state where no driver runs the search, or has not said so for a while."""
    state = FleetState.read(run.fleet_file) if held else None
    return FleetState(0.0) if state is None or state.stale else state


def waits_now(run: Run, fleet: FleetState) -> str | None:
    """What the process that runs it now waits for; None where it does not wait. The state of the slots is newer."""
    return (fleet.waiting or run.waits()).removeprefix("waiting: ") or None


def _sessions(run: Run) -> list[float]:
    """When each session of a run began."""
    return [session["started"] for session in run.manifest.get("sessions", [])]


def _best_score(
    facts: _Facts, label: str | None, metric: str, images: int | None
) -> tuple[float | None, Interval | None]:
    """The best score of a run with its interval: that of the best trial, or of the best point over its seeds."""
    for point in facts.points or ():
        if point.point == label:
            return point.mean, point.interval
    if facts.best is None:
        return None, None
    return facts.best.values[0], certainty.of_score(facts.best.values[0], metric, images)


def _row(
    run: Run,
    study: Study,
    trial: FrozenTrial,
    images: int | None,
    session: list[float] | None,
    workers: int | None,
) -> TrialView:
    curve = dict(sorted(trial.intermediate_values.items()))
    score = trial.values[0] if trial.values else curve[max(curve)] if curve else None
    error, best = trial.user_attrs.get("error"), best_of(curve, study.spec.objective.mode)
    return TrialView(
        key=key_of(trial),
        state=_state(trial, session),
        epoch=max(curve, default=0),
        epochs=study.epochs_of(trial),
        score=score,
        interval=certainty.of_score(score, study.spec.objective.metric, images),
        curve=curve,
        point=label_of(study.spec, trial),
        values=trial.user_attrs.get("values", {}),
        metrics=trial.user_attrs.get("metrics", {}),
        slot=trial.user_attrs.get("slot"),
        best_epoch=best and best.epoch,
        best_epoch_score=best and best.score,
        collapsed=trial.user_attrs.get("collapsed", False),
        error=error,
        log=run.trial_log(key_of(trial), error) if error else None,
        workers=None if trial.state.is_finished() else workers,
    )


def _state(trial: FrozenTrial, session: list[float] | None) -> str:
    """A trial's state in a word or two.

    Args:
        trial: of the study.
        session: when the session began that runs now, at most one; None where nobody runs the search.
    """
    if trial.state.is_finished():
        return STATES[trial.state]
    if session is None:
        return "interrupted"
    begun = trial.user_attrs.get("started_at")
    if is_paused(trial):
        return "paused"
    if begun is None:
        return "queued"
    return "queued again" if session and begun < session[0] else STATES[trial.state]
