"""The best configurations of a search, as files that a full run starts from."""

from pathlib import Path
from typing import Any

import yaml
from optuna.trial import FrozenTrial

from trainables.errors import UserError
from tuner import points
from tuner.runs import Run
from tuner.study import Study, key_of


def export(run: Run, study: Study, top: int, output: Path) -> list[Path]:
    """Writes the `top` best complete trials, or points of a table, as TrialConfig files: output, output-2, output-3, ...

    A point is the best by the mean over its seeds, and is written with the first of them: none is picked for its luck.

    Raises:
        UserError: no trial is complete, or no point is with all of its seeds.
    """
    best = study.best(top)
    if not best:
        lacking = "point has all of its seeds" if study.spec.table else "trial is"
        raise UserError(f"{run.path}: no {lacking} complete yet, so there is nothing to export")
    output.parent.mkdir(parents=True, exist_ok=True)
    paths = [output.with_stem(f"{output.stem}-{rank}") if rank > 1 else output for rank in range(1, len(best) + 1)]
    for rank, (path, trial) in enumerate(zip(paths, best, strict=True), start=1):
        path.write_text(_header(run, study, rank, trial) + yaml.safe_dump(study.config_of(trial).plain(), sort_keys=False))
    return paths


def _header(run: Run, study: Study, rank: int, trial: FrozenTrial) -> str:
    spec, untrained = study.spec, run.read_baseline() or {}
    metric, epochs, complete = spec.objective.metric, study.epochs_of(trial), len(study.best(spec.trials))
    who, score = f"trial {key_of(trial)}, number {rank} of {complete} complete trials", f"{trial.values[0]:.4f}"
    if spec.table:
        label = points.label_of(spec, trial)
        row = next(row for row in points.summary(spec, study.trials()) if row["point"] == label)
        who = f"point '{label}', number {rank} of {complete} complete points"
        score = f"{points.plus_minus(row['mean'], row['sd'])} over {spec.seeds} seeds"
    facts: dict[str, Any] = {
        "search": f"{spec.name} ({run.path}), {who}",
        "score": f"{metric} {score} on validation after {epochs} epochs, untrained {untrained.get(metric)}",
        "network": spec.trial.evaluation.network,
        "proposed": ", ".join(f"{key}={value}" for key, value in trial.user_attrs["values"].items()),
        "commit": run.manifest.get("commit"),
    }
    return "".join(f"# {name}: {fact}\n" for name, fact in facts.items())
