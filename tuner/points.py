"""A table of points: rows that are run in full with several seeds, in place of a space, and what they have come to."""

import statistics
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.table import Table
from rich.text import Text

from trainables import config as c
from trainables.errors import UserError
from trainables.evaluation_config import METRICS
from tuner.space import Space, configured
from tuner.spec import SearchSpec, check_workers
from tuner.table import spelt_out

OWNED = ("seed", "data.", "evaluation.")  # that points may not set,
FREE = ("data.labels.", "evaluation.protocols")  # and what of it they may


class Points(Space):
    """Proposes the points of a table, with the first seed all of them, then with the next: so a table that is cut short is balanced.

    They are the known good points of a space that has no others. A proposal names its point and its seed, so the journal does.
    """

    def configure(self, base: c.TrialConfig, values: dict[str, Any]) -> c.TrialConfig:
        """The trial of a point and a seed; `load` has seen that it is valid."""
        return c.changed(base.plain(), values)


def load(spec: SearchSpec) -> Points:
    """The table of a search.

    Raises:
        UserError: a point has a key that TrialConfig lacks or that belongs to the search, or makes no valid trial.
    """
    points = {label: spelt_out(values, spec.trial.method.name) for label, values in spec.table.items()}
    for label, config in configs(spec).items():
        check_workers(spec.resources.workers, config)
        if config.train.epochs < 1:
            raise UserError(f"point '{label}': train.epochs = 0: a search needs at least 1 epoch")
        giver, listed = METRICS.get(spec.objective.metric), config.evaluation.protocols
        if giver is not None and giver not in listed:
            rule = f"{giver} gives it, which its evaluation.protocols = {', '.join(listed)} lacks"
            raise UserError(f"point '{label}': objective.metric = {spec.objective.metric}: {rule}")
    seeds = range(spec.trial.seed, spec.trial.seed + spec.seeds)

    def suggest(trial: optuna.Trial) -> dict[str, Any]:
        label = trial.suggest_categorical("point", list(points))
        return {**points[label], "seed": trial.suggest_int("seed", seeds[0], seeds[-1])}

    return Points("points", suggest, [{"point": label, "seed": seed} for seed in seeds for label in points])


def configs(spec: SearchSpec) -> dict[str, c.TrialConfig]:
    """The trial of each point, with the first seed.

    Raises:
        UserError: a point makes no valid trial.
    """
    method = spec.trial.method.name
    return {
        label: configured(spec.trial, spelt_out(values, method), f"point '{label}'", OWNED, FREE) for label, values in spec.table.items()
    }


def check_data(spec: SearchSpec) -> None:
    """Raises UserError where a point asks for more than the data hold, as `settled` does for what the points have in common."""
    counts: dict[c.Data, int] = {}
    for label, config in configs(spec).items():
        try:
            if config.data not in counts:
                counts[config.data] = config.training_images()
            config.check_length(counts[config.data])
        except UserError as error:
            raise UserError(f"point '{label}': {error}") from None


def alike(spec: SearchSpec) -> list[list[str]]:
    """Labels of the points that have one and the same trial, for each such trial."""
    labels: dict[str, list[str]] = {}
    for label, config in configs(spec).items():
        labels.setdefault(config.model_dump_json(), []).append(label)
    return [group for group in labels.values() if len(group) > 1]


def label_of(spec: SearchSpec, trial: FrozenTrial) -> str | None:
    """The point of a trial; None where a space proposed it."""
    return trial.params["point"] if spec.table else None


def best(spec: SearchSpec, trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """The points whose seeds are all complete, the one with the best mean first, each as its trial with the first seed."""
    rows = [row for row in summary(spec, trials) if len(row["scores"]) == spec.seeds]
    rows.sort(key=lambda row: row["mean"], reverse=spec.objective.mode == "max")
    firsts = {trial.params["point"]: trial for trial in trials if trial.params["seed"] == spec.trial.seed}
    return [firsts[row["point"]] for row in rows]


def summary(spec: SearchSpec, trials: list[FrozenTrial]) -> list[dict[str, Any]]:
    """A row for each point: the scores of its complete trials by seed, their mean and standard deviation (n - 1), and its difference.

    The difference from the first point is taken seed by seed, for trials of one seed begin with the same student and see the same images in
    the same order. Numbers that would need more trials are None.
    """
    scores: dict[str, dict[int, float]] = {label: {} for label in spec.table}
    for trial in sorted(trials, key=lambda trial: trial.number):
        if trial.state == TrialState.COMPLETE:
            scores[trial.params["point"]][trial.params["seed"]] = trial.values[0]
    first = next(iter(scores.values()), {})
    return [_row(label, by_seed, first) for label, by_seed in scores.items()]


def _row(label: str, scores: Mapping[int, float], first: Mapping[int, float]) -> dict[str, Any]:
    differences = [score - first[seed] for seed, score in scores.items() if seed in first and scores is not first]
    mean, spread = _mean_and_spread(list(scores.values()))
    difference, difference_spread = _mean_and_spread(differences)
    by_seed = {str(seed): score for seed, score in scores.items()}
    return {"point": label, "scores": by_seed, "mean": mean, "sd": spread, "difference": difference, "difference_sd": difference_spread}


def _mean_and_spread(values: list[float]) -> tuple[float | None, float | None]:
    return statistics.fmean(values) if values else None, statistics.stdev(values) if len(values) > 1 else None


def table_of(state: dict[str, Any]) -> Table:
    """The table of a run, from its overview: what papers print."""
    rows, seeds = state["points"], state["seeds"]
    table = Table("point", title=f"{state['objective']} on validation, mean ± standard deviation over seeds", title_justify="left")
    for name in (state["objective"], "seeds", f"over '{rows[0]['point']}'"):
        table.add_column(Text(name), justify="right")
    for row in rows:
        best = " *" if row["point"] == state["best_point"] else ""
        table.add_row(
            Text(row["point"]),
            plus_minus(row["mean"], row["sd"]) + best,
            f"{len(row['scores'])}/{seeds}",
            plus_minus(row["difference"], row["difference_sd"], "+"),
        )
    if state["untrained"] is not None:
        table.add_row("untrained encoder", f"{state['untrained']:.4f}", "1", "")
    return table


def plus_minus(mean: float | None, spread: float | None, sign: str = "") -> str:
    """A mean with its spread, as far as they are known."""
    if mean is None:
        return ""
    return f"{mean:{sign}.4f}" + ("" if spread is None else f" ± {spread:.4f}")
