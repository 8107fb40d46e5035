"""`tuner simulate`: what a search would have done, against recorded curves and in virtual time."""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from trainables.config.errors import UserError
from trainables.config.settings import read_yaml
from trainables.config.trial import TrialConfig
from tuner.commands import checks, searching
from tuner.plan import points, reading, space
from tuner.plan.spec import SearchSpec
from tuner.report.bars import clock_time
from tuner.report.viewer import STATES
from tuner.report.wording import brief, title
from tuner.runs import run as runs
from tuner.runs.hints import command, counted
from tuner.search.core import Core
from tuner.search.study import Study, key_of
from tuner.simulator import files
from tuner.simulator.curves import Table
from tuner.simulator.pool import PoolStudy
from tuner.simulator.result import Happening, Simulation, Started
from tuner.simulator.simulate import replay, simulate

VERSION = 1
"""Version of what `--json` prints. Keys may be added to a version, none is renamed or removed."""

NAMES: Mapping[type, str] = {Started: "Start"}  # of decisions in the log that are not called as their type


def run(arguments: argparse.Namespace) -> int:
    """Simulates a search and prints it; returns the exit status: 1 where no trial is complete."""
    if arguments.replay and arguments.pool:
        raise UserError("--replay: repeats the trials of a run, so there is nothing for --pool to choose")
    if arguments.replay and arguments.slots is not None:
        rule = "has as many slots as the run had trials at once, so leave --slots out"
        raise UserError(f"--replay, --slots {arguments.slots}: a replay {rule}")
    _refuse_trial(arguments.search)
    spec = reading.described(arguments.search, arguments.set, runs.format_of_search(arguments.search))
    checks.require_strategy(spec)
    source = runs.Run(arguments.curves) if arguments.curves.is_dir() else None
    recorded = None if source is None else _recorded(source)
    curves = files.read(arguments.curves) if source is None or recorded is None else files.of_run(source, recorded)
    _require_same_trial(spec, curves, arguments.curves)
    if arguments.replay or not spec.resources.is_elastic:  # the slots say how many trials run at once
        alone = spec.resources.model_copy(update={"concurrent_trials": None})
        spec = spec.model_copy(update={"resources": alone})
    study = _study(spec, source, curves, arguments.pool)
    core = Core(study)
    if arguments.replay:
        if recorded is None:
            raise UserError(
                f"--replay: {arguments.curves} is no run directory, and only a run knows its order of events"
            )
        result = replay(core, curves, recorded)
    else:
        result = simulate(core, curves, arguments.slots or 1)
    print(json.dumps(_as_json(study, result), indent=2) if arguments.json else "\n".join(_lines(study, result)))
    if core.alike:
        print(f"ended: trials {', '.join(core.alike)} failed alike", file=sys.stderr)
    if not study.best(1):
        print("error: no trial was completed", file=sys.stderr)
        return 1
    return 0


def _refuse_trial(path: Path) -> None:
    """Raises UserError where a file holds the configuration of a trial, such as `tuner export` writes."""
    stated, keys = read_yaml(path).keys(), TrialConfig.model_fields.keys()
    if stated <= keys and not stated <= SearchSpec.model_fields.keys():
        hint = f"train it with: {command('tuner', 'train', path)}"
        raise UserError(f"{path}: is the configuration of one trial, and simulate takes a search; {hint}")


def _require_same_trial(spec: SearchSpec, curves: Table, source: Path) -> None:
    """Refuses curves of trials of another configuration: they are looked up by the proposed values alone.

    Args:
        spec: of the search.
        curves: where they say what their trials have in common, that is compared.
        source: of the curves.

    Raises:
        UserError: a key that makes a trial what it is has another value; a line for each.
    """
    if curves.trial is None:
        return
    if odd := list(reading.changes({"trial": curves.trial}, spec)):
        rule = f"in {source}, and a curve holds for its own configuration only"
        raise UserError("\n".join(f"{key} = {now!r}: is {recorded!r} {rule}" for key, recorded, now in odd))


def _recorded(source: runs.Run) -> Study:
    """The study of a run whose curves are used.

    Raises:
        UserError: it is a full run, or something in it is damaged.
    """
    if source.kind == "train":
        raise UserError(f"{source.path}: is a full run, not a search, and holds the curve of one configuration")
    return searching.read(source)


def _study(spec: SearchSpec, source: runs.Run | None, curves: Table, pool: bool) -> Study:
    """A new study in memory; the space of a run that had one of its own is the run's copy."""
    if spec.table:
        if pool:
            raise UserError("--pool: the points of a table are fixed, so there is nothing to choose")
        return Study(None, spec, points.load(spec))
    copied = source is not None and source.spec.get("space") == spec.space and not Path(spec.space).is_file()
    asked = space.load(source.space(spec.space) if source is not None and copied else spec.space)
    return PoolStudy(spec, asked, curves.points) if pool else Study(None, spec, asked)


def _lines(study: Study, result: Simulation) -> list[str]:
    """What the terminal shows: a line for each trial, and what the search came to."""
    trials, metric = study.trials(), study.spec.objective.metric
    seen: dict[str, set[str]] = {}
    for trial in trials:
        for key, value in trial.user_attrs["values"].items():
            seen.setdefault(key, set()).add(repr(value))
    telling = {key for key, values in seen.items() if len(values) > 1 or len(trials) == 1}
    lines = [_line(study, trial, telling, result) for trial in trials]
    best = study.best(1)
    if best:
        lines.append(f"best: trial {key_of(best[0])}, {metric} {best[0].values[0]:.4f}")
    facts = [
        counted(len(trials), "trial"),
        f"{clock_time(result.seconds)} of virtual time on {counted(result.slots, 'slot')}",
        f"slots {result.utilisation:.0%} busy",
        f"{counted(result.refused, 'look-up')} refused",
    ]
    return [*lines, "   ".join(facts)]


def _line(study: Study, trial: FrozenTrial, telling: set[str], result: Simulation) -> str:
    score, key = _score(trial), key_of(trial)
    values = trial.user_attrs["values"]
    proposed = ", ".join(f"{title(name)} {brief(value)}" for name, value in values.items() if name in telling)
    shown = "" if score is None else f"{score:.4f}"
    epochs = f"{max(trial.intermediate_values, default=0)}/{study.epochs_of(trial)}"
    why = f"  ({result.ended[key].partition(':')[0]})" if key in result.ended else ""
    return f"{key}  {STATES[trial.state]:<8}  {epochs:>7}  {shown:>8}  {proposed}{why}"


def _score(trial: FrozenTrial) -> float | None:
    curve = trial.intermediate_values
    return trial.values[0] if trial.values else curve[max(curve)] if curve else None


def _as_json(study: Study, result: Simulation) -> dict[str, Any]:
    """The simulation as plain values."""
    spec, best = study.spec, study.best(1)
    return {
        "version": VERSION,
        "name": spec.name,
        "objective": spec.objective.metric,
        "mode": spec.objective.mode,
        "slots": result.slots,
        "seconds": result.seconds,
        "utilisation": result.utilisation,
        "refused": result.refused,
        "best": key_of(best[0]) if best else None,
        "best_score": best[0].values[0] if best else None,
        "trials": [_trial_as_json(study, trial, result) for trial in study.trials()],
        "log": [_happening_as_json(happening) for happening in result.log],
    }


def _trial_as_json(study: Study, trial: FrozenTrial, result: Simulation) -> dict[str, Any]:
    curve = trial.intermediate_values
    return {
        "key": key_of(trial),
        "state": STATES[trial.state],
        "epoch": max(curve, default=0),
        "epochs": study.epochs_of(trial),
        "score": _score(trial),
        "curve": dict(sorted(curve.items())),
        "values": trial.user_attrs["values"],
        "error": trial.user_attrs.get("error"),
        "ended": result.ended.get(key_of(trial)),
    }


def _happening_as_json(happening: Happening) -> dict[str, Any]:
    event, decision = happening.event, happening.decision
    metrics = getattr(event, "metrics", {})
    return {
        "at": happening.at,
        "slot": happening.slot,
        "event": type(event).__name__,
        "key": decision.key if isinstance(decision, Started) else getattr(event, "key", None),
        "epoch": int(metrics["epoch"]) if "epoch" in metrics else None,
        "decision": NAMES.get(type(decision), type(decision).__name__),
        "widths": getattr(decision, "widths", None),
    }
