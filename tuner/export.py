"""The best configurations of a search, as files that a full run starts from."""

from pathlib import Path
from typing import Any

import yaml
from optuna.trial import FrozenTrial

from trainables.errors import UserError
from tuner.runs import Run
from tuner.study import Study, key_of


def export(run: Run, study: Study, top: int, output: Path) -> list[Path]:
    """Writes the `top` best complete trials as TrialConfig files: output, output-2, output-3, ...

    Raises:
        UserError: no trial is complete.
    """
    best = study.best(top)
    if not best:
        raise UserError(f"{run.path}: no trial is complete yet, so there is nothing to export")
    output.parent.mkdir(parents=True, exist_ok=True)
    paths = [output.with_stem(f"{output.stem}-{rank}") if rank > 1 else output for rank in range(1, len(best) + 1)]
    for rank, (path, trial) in enumerate(zip(paths, best, strict=True), start=1):
        path.write_text(_header(run, study, rank, trial) + yaml.safe_dump(study.config_of(trial).plain(), sort_keys=False))
    return paths


def _header(run: Run, study: Study, rank: int, trial: FrozenTrial) -> str:
    metric, epochs, untrained = study.spec.objective.metric, study.spec.trial.train.epochs, run.read_baseline() or {}
    complete = len(study.best(study.spec.trials))
    facts: dict[str, Any] = {
        "search": f"{study.spec.name} ({run.path}), trial {key_of(trial)}, number {rank} of {complete} complete trials",
        "score": f"{metric} {trial.values[0]:.4f} on validation after {epochs} epochs, untrained {untrained.get(metric)}",
        "network": study.spec.trial.evaluation.network,
        "proposed": ", ".join(f"{key}={value}" for key, value in trial.user_attrs["values"].items()),
        "commit": run.manifest["commit"],
    }
    return "".join(f"# {name}: {fact}\n" for name, fact in facts.items())
