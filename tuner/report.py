"""What a run has come to, from its directory alone: for `status`, for the live table, and at the end of a search."""

import statistics
from itertools import pairwise
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from rich.table import Table

from tuner.runs import Run
from tuner.study import Study, key_of

STATES = {
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "stopped",
    TrialState.FAIL: "failed",
}


def overview(run: Run, study: Study) -> dict[str, Any]:
    """All that `status --json` prints: trials, the best one, the untrained score and the gaps between trials on a slot."""
    trials, spec = study.trials(), study.spec
    best = study.best(1)
    baseline = run.read_baseline()
    gaps = slot_gaps(trials)
    return {
        "run": str(run.path),
        "name": spec.name,
        "space": spec.space,
        "objective": spec.objective.metric,
        "trials_wanted": spec.trials,
        "epochs": spec.trial.train.epochs,
        "held": run.held(),
        "trials": [_row(run, trial) for trial in trials],
        "best": key_of(best[0]) if best else None,
        "untrained": baseline.get(spec.objective.metric) if baseline else None,
        "gap_median_s": statistics.median(gaps) if gaps else None,
        "gaps": len(gaps),
    }


def slot_gaps(trials: list[FrozenTrial]) -> list[float]:
    """Seconds from a trial's last metric to the first step of the next one on the same slot."""
    timed = [t.user_attrs for t in trials if t.user_attrs.get("first_step_at") and t.user_attrs.get("last_metric_at")]
    by_slot: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for attrs in timed:
        by_slot.setdefault((attrs["session"], attrs["slot"]), []).append((attrs["first_step_at"], attrs["last_metric_at"]))
    gaps = []
    for spans in by_slot.values():
        spans.sort()
        gaps += [later[0] - earlier[1] for earlier, later in pairwise(spans)]
    return [gap for gap in gaps if gap >= 0]


def table_of(state: dict[str, Any], title: str = "") -> Table:
    """The table of a run."""
    done = sum(row["state"] in ("complete", "stopped", "failed") for row in state["trials"])
    untrained = "" if state["untrained"] is None else f"   untrained {state['untrained']:.4f}"
    caption = f"{done} of {state['trials_wanted']} trials{untrained}"
    if state["gap_median_s"] is not None:
        caption += f"   median gap between two trials on a slot {state['gap_median_s']:.2f} s ({state['gaps']} gaps)"
    table = Table(title=f"{state['name']}  {title}", caption=caption, title_justify="left", caption_justify="left")
    for name in ("trial", "state", "epoch", state["objective"], "proposed"):
        table.add_column(name, justify="right" if name in ("epoch", state["objective"]) else "left")
    telling = {key for row in state["trials"] for key in row["values"] if _differs(key, state["trials"])}
    for row in state["trials"]:
        score = "" if row["score"] is None else f"{row['score']:.4f}{' *' if row['key'] == state['best'] else ''}"
        text = row["error"] and f"{row['error']} (log: {row['log']})"
        values = ", ".join(f"{_short(key)} {brief(value)}" for key, value in row["values"].items() if key in telling)
        table.add_row(row["key"], row["state"], f"{row['epoch']}/{state['epochs']}", score, text or values)
    return table


def closing_lines(run: Run, study: Study, exported: str) -> list[str]:
    """What a search ends with: the best score beside the untrained encoder's and the papers' default teacher's, and what to do next."""
    state, metric = overview(run, study), study.spec.objective.metric
    best = study.best(1)[0]
    default = state["trials"][0]
    rows = [
        (f"best teacher (trial {key_of(best)})", best.values[0]),
        ("papers' default teacher (trial 0000)", default["score"]) if study.space.known_good else None,
        ("untrained encoder", state["untrained"]),
    ]
    lines = [f"{metric} on the validation split"]
    lines += [f"  {name:<38} {score:.4f}" for row in rows if row for name, score in [row] if score is not None]
    return [
        *lines,
        f"best configuration: {exported}",
        "next:",
        f"  tuner status {run.path}",
        f"  tensorboard --logdir {run.tensorboard_folder}",
        f"  tuner train {exported} --epochs {4 * study.spec.trial.train.epochs} --workers {study.spec.resources.workers}",
    ]


def _row(run: Run, trial: FrozenTrial) -> dict[str, Any]:
    curve = trial.intermediate_values
    score = trial.values[0] if trial.values else curve[max(curve)] if curve else None
    error = trial.user_attrs.get("error")
    return {
        "key": key_of(trial),
        "state": STATES[trial.state],
        "epoch": max(curve, default=0),
        "score": score,
        "curve": {str(epoch): value for epoch, value in sorted(curve.items())},
        "values": trial.user_attrs.get("values", {}),
        "metrics": trial.user_attrs.get("metrics", {}),
        "error": error,
        "log": str(run.trial_log(key_of(trial))) if error else None,
    }


def _differs(key: str, rows: list[dict[str, Any]]) -> bool:
    return len(rows) == 1 or len({repr(row["values"].get(key)) for row in rows if key in row["values"]}) > 1


def _short(key: str) -> str:
    return key.removeprefix("teacher.").removesuffix(".kind")


def brief(value: Any) -> str:
    """A value as a table shows it."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
