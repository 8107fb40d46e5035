"""What `tuner status` shows of a full run: how far it is, its score, its slots, and what it waits for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.running.checkpoint_header import history_in
from tuner.plan.spec import parse
from tuner.report.view import VERSION, best_of
from tuner.report.viewer import fleet_now, waits_now
from tuner.runs.fleet_state import FleetSlot
from tuner.runs.hints import command, counted, resume_hint
from tuner.runs.run import FULL, Run


@dataclass(frozen=True)
class FullRunView:
    """A full run. The fields, in their order, are what `status --json` prints of it, behind the version.

    Attributes:
        run: its directory.
        kind: "train", by which a program tells it from a search.
        objective: the metric.
        held: whether a process runs it now.
        waits: what that process waits for; None where it does not wait.
        epoch: the last one that a checkpoint holds.
        epochs: of the run.
        score: the objective at that epoch.
        best_epoch: the epoch with the best objective.
        best_epoch_score: the objective there.
        workers: that train it now; None where it is not being trained.
        slots: whose workers are up now.
        warnings: what a user should know now.
    """

    run: Path
    kind: str
    objective: str
    held: bool
    waits: str | None
    epoch: int
    epochs: int
    score: float | None
    best_epoch: int | None
    best_epoch_score: float | None
    workers: int | None
    slots: tuple[FleetSlot, ...]
    warnings: tuple[str, ...]


def view_of(run: Run) -> FullRunView:
    """The view of a full run at this moment, from its directory alone.

    Raises:
        UserError: its spec is damaged.
    """
    spec, held = parse(run.spec), run.held()
    fleet, metric = fleet_now(run, held), spec.objective.metric
    curve = {
        int(metrics["epoch"]): metrics[metric] for metrics in history_in(run.trial_folder(FULL)) if metric in metrics
    }
    best, last = best_of(curve, spec.objective.mode), max(curve, default=0)
    return FullRunView(
        run=run.path,
        kind=run.kind,
        objective=metric,
        held=held,
        waits=waits_now(run, fleet),
        epoch=last,
        epochs=spec.trial.train.epochs,
        score=curve.get(last),
        best_epoch=best and best.epoch,
        best_epoch_score=best and best.score,
        workers=fleet.widths.get(FULL),
        slots=fleet.slots,
        warnings=fleet.warnings,
    )


def as_json(view: FullRunView) -> dict[str, Any]:
    """What `status --json` prints: plain values, ready for `json.dumps`."""
    return {"version": VERSION, **vars(view), "run": str(view.run), "slots": [vars(slot) for slot in view.slots]}


def lines(run: Run, view: FullRunView) -> list[str]:
    """What `status` prints: how far the run is, what it waits for, and how to go on or look closer."""
    facts = [f"epoch {view.epoch} of {view.epochs}"]
    facts += [] if view.score is None else [f"{view.objective} {view.score:.4f}"]
    if view.best_epoch is not None and view.best_epoch != view.epoch:
        facts.append(f"{view.best_epoch_score:.4f} after epoch {view.best_epoch}, the best on validation")
    if view.slots:
        on = f" on {counted(view.workers, 'worker')}" if view.workers else ""
        nodes = counted(len({slot.node for slot in view.slots}), "node")
        facts.append(f"running{on}; {counted(len(view.slots), 'slot')} up on {nodes}")
    told = [f"full run -> {view.run}", "; ".join(facts), *(f"warning: {warning}" for warning in view.warnings)]
    told += [f"waiting: {view.waits}"] if view.waits else []
    if not view.held and view.epoch < view.epochs:
        told.append(f"nobody runs it now; {resume_hint(run)}")
    return [*told, command("tensorboard", "--logdir", run.tensorboard_folder)]
