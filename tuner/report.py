"""What a run has come to, from its directory alone: for `status`, for the live table, and at the end of a search."""

import shlex
import shutil
import statistics
import sys
from collections.abc import Collection, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from rich.table import Table
from rich.text import Text

from tuner import points
from tuner.runs import Run
from tuner.spec import SearchSpec
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
    trials, spec, held = study.trials(), study.spec, run.held()
    best = study.best(1)
    baseline = run.read_baseline()
    gaps = slot_gaps(trials)
    return {
        "run": str(run.path),
        "name": spec.name,
        "space": None if spec.table else spec.space,
        "objective": spec.objective.metric,
        "mode": spec.objective.mode,
        "trials_wanted": spec.trials,
        "epochs": spec.trial.train.epochs,
        "held": held,
        "ended": sum(trial.state.is_finished() for trial in trials),
        "trials": [_row(run, study, trial, held) for trial in trials],
        "points": points.summary(spec, trials) if spec.table else None,
        "seeds": spec.seeds,
        "best": key_of(best[0]) if best else None,
        "best_point": points.label_of(spec, best[0]) if best else None,
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
    untrained = "" if state["untrained"] is None else f"   untrained {state['untrained']:.4f}"
    caption = f"{state['ended']} of {state['trials_wanted']} trials{untrained}"
    if state["gap_median_s"] is not None:
        caption += f"   median gap between two trials on a slot {state['gap_median_s']:.2f} s ({state['gaps']} gaps)"
    table = Table(title=f"{state['name']}  {title}", caption=caption, title_justify="left", caption_justify="left")
    for name in ("trial", "state", "epoch", state["objective"], "proposed"):
        table.add_column(name, justify="right" if name in ("epoch", state["objective"]) else "left")
    telling = {key for row in state["trials"] for key in row["values"] if _differs(key, state["trials"])}
    for row in state["trials"]:
        score = "" if row["score"] is None else f"{row['score']:.4f}{' *' if row['key'] == state['best'] else ''}"
        text = row["error"] and f"{row['error']} (log: {row['log']})"
        values = proposed(row, telling)
        table.add_row(row["key"], state_of(row), f"{row['epoch']}/{row['epochs']}", score, Text(text or values))
    return table


def state_of(row: dict[str, Any]) -> str:
    """A trial's state in words; a collapsed one says so, whatever its score."""
    return f"{row['state']}, collapsed" if row["collapsed"] else row["state"]


def proposed(row: dict[str, Any], telling: Collection[str]) -> str:
    """What makes a trial: its point and its seed, or the proposed values of the keys that tell trials apart."""
    if row["point"] is not None:
        return f"{row['point']}, seed {row['values']['seed']}"
    return ", ".join(f"{_short(key)} {brief(value)}" for key, value in row["values"].items() if key in telling)


def newsworthy(state: dict[str, Any], count: int) -> dict[str, Any]:
    """The same with no more than `count` trials, for a screen: those that run, then those that ended with the best scores."""
    better = -1 if state["mode"] == "max" else 1
    ranked = sorted(state["trials"], key=lambda row: (row["state"] != "running", row["score"] is None, better * (row["score"] or 0)))
    kept = {row["key"] for row in ranked[:count]}
    return {**state, "trials": [row for row in state["trials"] if row["key"] in kept]}


def closing_lines(run: Run, study: Study, exported: Path) -> list[str]:
    """What a search ends with, a table below its own: the best score beside the untrained encoder's and the default's, and what is next."""
    return [
        *([] if study.spec.table else _scores(run, study)),
        f"best configuration: {shown(exported)}",
        "next:",
        f"  {command('tuner', 'status', run.path)}",
        f"  {command('tensorboard', '--logdir', run.tensorboard_folder)}",
        f"  {command('tuner', 'train', exported, '--epochs', 4 * study.spec.trial.train.epochs, *_resources(study.spec))}",
    ]


def _scores(run: Run, study: Study) -> list[str]:
    """The best trial beside what it has to beat."""
    state, best = overview(run, study), study.best(1)[0]
    default = state["trials"][0]
    rows = [
        (f"best teacher (trial {key_of(best)})", best.values[0]),
        (f"{study.space.firsts} (trial 0000)", default["score"]) if study.space and study.space.known_good else None,
        ("untrained encoder", state["untrained"]),
    ]
    lines = [f"{study.spec.objective.metric} on the validation split"]
    return lines + [f"  {name:<38} {score:.4f}" for row in rows if row for name, score in [row] if score is not None]


def _row(run: Run, study: Study, trial: FrozenTrial, held: bool) -> dict[str, Any]:
    curve = trial.intermediate_values
    score = trial.values[0] if trial.values else curve[max(curve)] if curve else None
    error = trial.user_attrs.get("error")
    return {
        "key": key_of(trial),
        "state": STATES[trial.state] if held or trial.state.is_finished() else "interrupted",
        "epoch": max(curve, default=0),
        "epochs": study.epochs_of(trial),
        "score": score,
        "curve": {str(epoch): value for epoch, value in sorted(curve.items())},
        "point": points.label_of(study.spec, trial),
        "values": trial.user_attrs.get("values", {}),
        "metrics": trial.user_attrs.get("metrics", {}),
        **best_of(curve, study.spec.objective.mode),
        "collapsed": trial.user_attrs.get("collapsed", False),
        "error": error,
        "log": str(run.trial_log(key_of(trial), error)) if error else None,
    }


def best_of(curve: Mapping[int, float], mode: str) -> dict[str, Any]:
    """The best epoch of a curve of the objective, the first of several: it is chosen on the split that it is measured on."""
    epoch = (max if mode == "max" else min)(sorted(curve), key=lambda epoch: curve[epoch], default=None)
    return {"best_epoch": epoch, "best_epoch_score": None if epoch is None else curve[epoch]}


def command(name: str, *arguments: object) -> str:
    """How to call a program of this installation from where the user is, ready for a shell."""
    here = Path(sys.executable).parent / name
    words = [name if shutil.which(name) == str(here) else here, *arguments]
    return shlex.join(shown(word) if isinstance(word, Path) else str(word) for word in words)


def resume_hint(run: Run) -> str:
    """What to do about an interruption."""
    return f"continue with: {command('tuner', 'resume', run.path)}"


def shown(path: Path) -> str:
    """A path as short as the working folder allows."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _resources(spec: SearchSpec) -> list[str]:
    """Options of `tuner train` for the workers that the search had."""
    wanted = spec.resources
    options = ["--workers", f"{wanted.workers}"]
    options += ["--cpus-per-worker", f"{wanted.cpus_per_worker}"] if wanted.cpus_per_worker != 1 else []
    options += ["--gpus-per-worker", f"{wanted.gpus_per_worker:g}"] if wanted.gpus_per_worker else []
    return options if spec.address == "local" else [*options, "--address", spec.address]


def _differs(key: str, rows: list[dict[str, Any]]) -> bool:
    return len(rows) == 1 or len({repr(row["values"].get(key)) for row in rows if key in row["values"]}) > 1


def _short(key: str) -> str:
    return key.removeprefix("teacher.").removesuffix(".kind")


def brief(value: Any) -> str:
    """A value as a table shows it."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
