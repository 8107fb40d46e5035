"""What a run has come to, from its directory alone: for `status`, for the live table, and at the end of a search."""

import math
import os
import shlex
import shutil
import statistics
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TextIO

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tuner.plan import points
from tuner.report import certainty
from tuner.report.bars import about, clock_time
from tuner.runs.run import Run
from tuner.search.study import Study, key_of

UNTRAINED = "the untrained encoder"
STATES = {
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "stopped",
    TrialState.FAIL: "failed",
}


def overview(run: Run, study: Study, over: bool = False) -> dict[str, Any]:
    """All that `status --json` prints: trials, the best one, the untrained score and the gaps between trials on a slot."""
    trials, spec, held, now = study.trials(), study.spec, run.held() and not over, time.time()
    best, sessions = study.best(1), [session["started"] for session in run.manifest.get("sessions", [])]
    baseline = run.read_baseline() or {}
    gaps, metric = slot_gaps(trials), spec.objective.metric
    images = certainty.images_of([baseline, *(trial.user_attrs.get("metrics", {}) for trial in trials)])
    untrained = baseline.get(metric)
    table = points.summary(spec, trials, images) if spec.table else None
    label = points.label_of(spec, best[0]) if best else None
    score, interval = (
        (best[0].values[0], certainty.of_score(best[0].values[0], metric, images)) if best else (None, None)
    )
    if row := next((row for row in table or [] if row["point"] == label), None):
        score, interval = row["mean"], row["interval"]
    return {
        "run": str(run.path),
        "name": spec.name,
        "space": None if spec.table else spec.space,
        "objective": metric,
        "mode": spec.objective.mode,
        "trials_wanted": spec.trials,
        "epochs": spec.trial.train.epochs,
        "held": held,
        "waits": run.waits() or None,
        "ended": sum(trial.state.is_finished() for trial in trials),
        "network": spec.trial.evaluation.network,
        "validation_images": images,
        "trials": [_row(run, study, trial, images, sessions[-1:] if held else None) for trial in trials],
        "points": table,
        "seeds": spec.seeds,
        "best": key_of(best[0]) if best else None,
        "best_point": label,
        "best_score": score,
        "best_interval": interval,
        "untrained": untrained,
        "untrained_interval": certainty.of_score(untrained, metric, images),
        "elapsed_s": elapsed(sessions, trials, now if held else None),
        "left_s": time_left(sessions, trials, spec.trials, now) if held else None,
        "gap_median_s": statistics.median(gaps) if gaps else None,
        "gaps": len(gaps),
    }


def slot_gaps(trials: list[FrozenTrial]) -> list[float]:
    """Seconds from a trial's last metric to the first step of the next one on the same slot."""
    timed = [t.user_attrs for t in trials if t.user_attrs.get("first_step_at") and t.user_attrs.get("last_metric_at")]
    by_slot: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for attrs in timed:
        by_slot.setdefault((attrs["session"], attrs["slot"]), []).append(
            (attrs["first_step_at"], attrs["last_metric_at"])
        )
    gaps = []
    for spans in by_slot.values():
        spans.sort()
        gaps += [later[0] - earlier[1] for earlier, later in pairwise(spans)]
    return [gap for gap in gaps if gap >= 0]


def elapsed(sessions: list[float], trials: list[FrozenTrial], now: float | None) -> float | None:
    """Seconds that a search has run, over all its sessions; None before the first.

    Args:
        sessions: when each began.
        trials: of the study; their times show how long a session went on.
        now: where the last session still runs.
    """
    if not sessions:
        return None
    stamps = [trial.user_attrs.get(name) or 0 for trial in trials for name in ("started_at", "last_metric_at")]
    bounds = [*sessions[1:], math.inf]
    ends = [
        max((s for s in stamps if begun <= s < bound), default=begun)
        for begun, bound in zip(sessions, bounds, strict=True)
    ]
    if now is not None:
        ends[-1] = now
    return sum(ends) - sum(sessions)


def time_left(sessions: list[float], trials: list[FrozenTrial], wanted: int, now: float) -> float | None:
    """Seconds until a search ends if the trials to come take as long as those that ended within a session; None before the first has."""
    spans = [(t.user_attrs.get("first_step_at"), t.user_attrs.get("last_metric_at")) for t in trials]
    whole = [(a, b) for a, b in spans if a and b and not any(a < begun <= b for begun in sessions)]
    if not whole:
        return None
    each = statistics.fmean(b - a for a, b in whole)
    running = [t.user_attrs.get("started_at", now) for t in trials if not t.state.is_finished()]
    waiting = wanted - sum(t.state.is_finished() for t in trials) - len(running)
    return (waiting * each + sum(max(0.0, each - (now - begun)) for begun in running)) / max(1, len(running))


def table_of(state: dict[str, Any], title: str = "") -> Table:
    """The table of a run."""
    star = None if no_gain(state) or state["points"] else state["best"]
    table = Table(
        title=f"{state['name']}  {title}",
        caption="\n".join(_captions(state)),
        title_justify="left",
        caption_justify="left",
    )
    for name in ("trial", "state", "epoch", state["objective"], "proposed"):
        table.add_column(name, justify="right" if name in ("epoch", state["objective"]) else "left")
    telling = {key for row in state["trials"] for key in row["values"] if _differs(key, state["trials"])}
    for row in state["trials"]:
        score = "" if row["score"] is None else f"{row['score']:.4f}{' *' if row['key'] == star else ''}"
        text = row["error"] and f"{row['error']} (log: {row['log']})"
        values = proposed(row, telling)
        table.add_row(row["key"], state_of(row), f"{row['epoch']}/{row['epochs']}", score, Text(text or values))
    return table


def _captions(state: dict[str, Any]) -> list[str]:
    """What stands below the table of a run."""
    facts = [f"{state['ended']} of {counted(state['trials_wanted'], 'trial')}"]
    facts += [] if state["validation_images"] is None else [of_images(state["validation_images"])]
    facts += [] if state["untrained"] is None else [f"untrained {state['untrained']:.4f}"]
    facts += [] if state["elapsed_s"] is None else [f"{clock_time(state['elapsed_s'])} elapsed"]
    facts += [] if state["left_s"] is None else [f"{about(state['left_s'])} left"]
    if state["gap_median_s"] is not None:
        facts.append(
            f"median gap between two trials on a slot {state['gap_median_s']:.2f} s ({counted(state['gaps'], 'gap')})"
        )
    lines = ["   ".join(facts)]
    if state["best"] is None or state["points"]:
        return lines
    if doubt := no_gain(state):
        return [*lines, f"no star: trial {state['best']} is the best, but {doubt}"]
    interval = f", 95 % {certainty.shown(state['best_interval'])}" if state["best_interval"] else ""
    return [*lines, f"* the best complete trial{interval}"]


def state_of(row: dict[str, Any]) -> str:
    """A trial's state in words; a collapsed one says so, whatever its score."""
    return f"{row['state']}, collapsed" if row["collapsed"] else row["state"]


def proposed(row: dict[str, Any], telling: Collection[str]) -> str:
    """What makes a trial: its point and its seed, or the proposed values of the keys that tell trials apart."""
    if row["point"] is not None:
        return f"{row['point']}, seed {row['values']['seed']}"
    return ", ".join(f"{title(key)} {brief(value)}" for key, value in row["values"].items() if key in telling)


def newsworthy(state: dict[str, Any], count: int) -> dict[str, Any]:
    """The same with no more than `count` trials, for a screen: those that run, then those that ended with the best scores."""
    better = -1 if state["mode"] == "max" else 1
    ranked = sorted(
        state["trials"], key=lambda row: (row["state"] != "running", row["score"] is None, better * (row["score"] or 0))
    )
    kept = {row["key"] for row in ranked[:count]}
    return {**state, "trials": [row for row in state["trials"] if row["key"] in kept]}


def _row(run: Run, study: Study, trial: FrozenTrial, images: int | None, session: list[float] | None) -> dict[str, Any]:
    curve = trial.intermediate_values
    score = trial.values[0] if trial.values else curve[max(curve)] if curve else None
    error = trial.user_attrs.get("error")
    return {
        "key": key_of(trial),
        "state": _state(trial, session),
        "epoch": max(curve, default=0),
        "epochs": study.epochs_of(trial),
        "score": score,
        "interval": certainty.of_score(score, study.spec.objective.metric, images),
        "curve": {str(epoch): value for epoch, value in sorted(curve.items())},
        "point": points.label_of(study.spec, trial),
        "values": trial.user_attrs.get("values", {}),
        "metrics": trial.user_attrs.get("metrics", {}),
        **best_of(curve, study.spec.objective.mode),
        "collapsed": trial.user_attrs.get("collapsed", False),
        "error": error,
        "log": str(run.trial_log(key_of(trial), error)) if error else None,
    }


def _state(trial: FrozenTrial, session: list[float] | None) -> str:
    """A trial's state in a word or two.

    Args:
        trial: of the study.
        session: when the one that runs now began; None where nobody runs the search.
    """
    if trial.state.is_finished():
        return STATES[trial.state]
    if session is None:
        return "interrupted"
    begun = trial.user_attrs.get("started_at")
    if begun is None:
        return "queued"
    return "queued again" if session and begun < session[0] else STATES[trial.state]


def best_of(curve: Mapping[int, float], mode: str) -> dict[str, Any]:
    """The best epoch of a curve of the objective, the first of several: it is chosen on the split that it is measured on."""
    epoch = (max if mode == "max" else min)(sorted(curve), key=lambda epoch: curve[epoch], default=None)
    return {"best_epoch": epoch, "best_epoch_score": None if epoch is None else curve[epoch]}


def no_gain(state: Mapping[str, Any], score: float | None = None) -> str:
    """In words that a trial's score is no clear gain over the untrained encoder's; "" where it is.

    Where the difference has no interval, as of a mean over seeds, a score counts that is better.

    Args:
        state: of the run, by `overview`.
        score: of one trial, or of a point of a table; the best one where none is given.
    """
    score = state["best_score"] if score is None else score
    if state["untrained"] is None or score is None:
        return ""
    images = None if state["points"] else state["validation_images"]
    return doubt(score, state["untrained"], UNTRAINED, state["objective"], state["mode"], images)


def doubt(score: float, other: float, name: str, metric: str, mode: str, images: int | None) -> str:
    """In words that a score is no clear gain over another one on the same images, called `name`; "" where it is."""
    if not certainty.better(score, other, mode):
        return f"not {certainty.side(mode)} {name}"
    interval = certainty.of_scores_apart(score, other, metric, images)
    return (
        "" if interval is None or certainty.clear(interval, mode) else f"within the noise of {images} images of {name}"
    )


def scored_on(metric: str, images: int | None) -> str:
    """A metric with the images that it is measured on, where it is a share of them."""
    return f"{metric} on {of_images(images)}" if certainty.is_share(metric) else metric


def of_images(images: int | None) -> str:
    """The validation split with its number of images, as far as it is known."""
    return "the validation split" if images is None else counted(images, "validation image")


def counted(number: int, noun: str) -> str:
    """A number with its noun: 1 trial, 2 trials."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def command(name: str, *arguments: object) -> str:
    """How to call a program of this installation from where the user is, ready for a shell."""
    here = Path(sys.executable).parent / name
    words = [name if shutil.which(name) == str(here) else here, *arguments]
    return shlex.join(shown(word) if isinstance(word, Path) else str(word) for word in words)


def resume_hint(run: Run) -> str:
    """What to do about an interruption."""
    return f"continue with: {command('tuner', 'resume', run.path)}"


def console(file: TextIO | None = None) -> Console:
    """Where tables go: as wide as the terminal, and 120 columns in a pipe, unless COLUMNS says otherwise."""
    piped = not (file or sys.stdout).isatty() and "COLUMNS" not in os.environ
    return Console(file=file, width=120 if piped else None)


def failed_alike(run: Run, trials: Sequence[FrozenTrial]) -> str:
    """Why a search ends whose trials fail alike, and what to do."""
    keys, error = ", ".join(map(key_of, trials)), trials[-1].user_attrs["error"]
    log = run.trial_log(key_of(trials[-1]), error)
    mend = "mend what they share (spec, space or data) and launch it as another run"
    go_on = f"or go on in spite of it: {command('tuner', 'resume', run.path)}"
    return f"trials {keys} failed alike before their first epoch: {error} (log: {log}); {mend}, {go_on}"


def failure_lines(failure: str) -> str:
    """What became of a run that failed before a trial was asked, and what to do: a resume would meet the same fault."""
    return f"it failed before a trial was asked: {failure}\nput it right and launch it again, which replaces this run"


def shown(path: Path) -> str:
    """A path as short as the working folder allows."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _differs(key: str, rows: list[dict[str, Any]]) -> bool:
    return len(rows) == 1 or len({repr(row["values"].get(key)) for row in rows if key in row["values"]}) > 1


def title(key: str) -> str:
    """A dotted key as a table shows it."""
    return key.removeprefix("teacher.").removesuffix(".kind")


def brief(value: Any) -> str:
    """A value as a table shows it; several, such as parts of an encoder, are joined by a plus."""
    if isinstance(value, list | tuple):
        return " + ".join(map(brief, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
