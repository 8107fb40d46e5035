"""A table of points: rows that are run in full with several seeds, in place of a space, and what they have come to."""

import statistics
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.table import Table
from rich.text import Text

from trainables.config import trial as c
from trainables.config.errors import UserError
from trainables.config.evaluation import METRICS
from trainables.data.check import check_length, training_images
from tuner.plan import jobs
from tuner.plan.space import Space, configured
from tuner.plan.spec import SearchSpec, check_workers
from tuner.plan.table import spelt_out
from tuner.report import certainty

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
            rule = f"needs '{giver}' in the point's evaluation.protocols, which has only {', '.join(listed)}"
            raise UserError(f"point '{label}': objective.metric = {spec.objective.metric}: {rule}")
    seeds = range(spec.trial.seed, spec.trial.seed + spec.seeds)
    c.changed(spec.trial.plain(), {"seed": seeds[-1]})  # so all seeds are valid

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
        label: configured(spec.trial, spelt_out(values, method), f"point '{label}'", OWNED, FREE)
        for label, values in spec.table.items()
    }


def check_data(spec: SearchSpec) -> None:
    """Raises UserError where a point asks for more than the data hold, as `settled` does for what the points have in common."""
    counts: dict[c.Data, int] = {}
    for label, config in configs(spec).items():
        try:
            jobs.require_data_kept(config.data)
            if config.data not in counts:
                counts[config.data] = training_images(config)
            check_length(config, counts[config.data])
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


def summary(spec: SearchSpec, trials: list[FrozenTrial], images: int | None = None) -> list[dict[str, Any]]:
    """A row for each point: the scores of its complete trials by seed, their mean and standard deviation (n - 1), and its difference.

    The difference from the first point is taken seed by seed, for trials of one seed begin with the same student and see the same images in
    the same order. Intervals (95 %) are over seeds; of a single seed over the validation `images`. What needs more trials is None.
    """
    scores: dict[str, dict[int, float]] = {label: {} for label in spec.table}
    for trial in sorted(trials, key=lambda trial: trial.number):
        if trial.state == TrialState.COMPLETE:
            scores[trial.params["point"]][trial.params["seed"]] = trial.values[0]
    first = next(iter(scores.values()), {})
    return [_row(label, by_seed, first, spec.objective.metric, images) for label, by_seed in scores.items()]


def _row(
    label: str, scores: Mapping[int, float], first: Mapping[int, float], metric: str, images: int | None
) -> dict[str, Any]:
    differences = [score - first[seed] for seed, score in scores.items() if seed in first and scores is not first]
    mean, spread = _mean_and_spread(list(scores.values()))
    difference, difference_spread = _mean_and_spread(differences)
    interval = certainty.of_mean(list(scores.values()), certainty.step_of(metric, images))
    if interval and certainty.is_share(metric):
        interval = max(0.0, interval[0]), min(1.0, interval[1])
    if len(scores) == 1:
        interval = certainty.of_score(mean, metric, images)
    return {
        "point": label,
        "scores": {str(seed): score for seed, score in scores.items()},
        "mean": mean,
        "sd": spread,
        "interval": interval,
        "difference": difference,
        "difference_sd": difference_spread,
        "difference_interval": None if scores is first else _apart(scores, first, metric, images),
    }


def _apart(
    scores: Mapping[Any, float], others: Mapping[Any, float], metric: str, images: int | None
) -> certainty.Interval | None:
    """The interval of the difference between two points, seed by seed; with a single seed that of two scores on the same images."""
    pairs = [(score, others[seed]) for seed, score in scores.items() if seed in others]
    if len(pairs) == 1:
        return certainty.of_scores_apart(*pairs[0], metric, images)
    return certainty.of_mean([score - other for score, other in pairs], certainty.step_of(metric, images))


def star(state: Mapping[str, Any]) -> tuple[str | None, str]:
    """The point that deserves a star, and in words why, or why none does.

    A point does if it has the best mean, over at least `certainty.FEWEST_SEEDS` seeds, above the untrained encoder, and if the intervals of
    its differences from all other complete points leave nothing but improvement. They are not corrected for the number of points.
    """
    rows = [row for row in state["points"] if len(row["scores"]) == state["seeds"]]
    if len(rows) < 2:
        return None, ""
    metric, mode, images, untrained = state["objective"], state["mode"], state["validation_images"], state["untrained"]
    best, *others = sorted(rows, key=lambda row: row["mean"], reverse=mode == "max")
    name = f"'{best['point']}' has the best mean"
    if untrained is not None and not certainty.better(best["mean"], untrained, mode):
        return None, f"no star: {name}, and it is not {certainty.side(mode)} the untrained encoder"
    if state["seeds"] < certainty.FEWEST_SEEDS:
        few = f"too few seeds ({state['seeds']}; with fewer than {certainty.FEWEST_SEEDS} luck looks like a difference)"
        return None, f"no star: {name}, but of {few}"
    for other in others:
        interval = _apart(best["scores"], other["scores"], metric, images)
        if not certainty.clear(interval, mode):
            apart = f"{best['mean'] - other['mean']:+.4f}" + (
                f", 95 % {certainty.shown(interval, '+')}" if interval else ""
            )
            return None, f"no star: {name}, within the noise of {state['seeds']} seeds of '{other['point']}' ({apart})"
    return best["point"], "* better than every other point, by 95 % intervals of the differences over seeds"


def _mean_and_spread(values: list[float]) -> tuple[float | None, float | None]:
    return statistics.fmean(values) if values else None, statistics.stdev(values) if len(values) > 1 else None


def table_of(state: dict[str, Any]) -> Table:
    """The table of a run, from its overview: what papers print, and how sure it is."""
    rows, seeds = state["points"], state["seeds"]
    starred, words = star(state)
    of = "validation" if state["validation_images"] is None else f"{state['validation_images']} validation images"
    title = f"{state['objective']} on {of}, mean ± standard deviation over seeds"
    table = Table("point", title=title, caption=words or None, title_justify="left", caption_justify="left")
    cells = [
        (
            row["point"],
            plus_minus(row["mean"], row["sd"]) + (" *" if row["point"] == starred else ""),
            certainty.shown(row["interval"]),
            f"{len(row['scores'])}/{seeds}",
            plus_minus(row["difference"], row["difference_sd"], "+"),
            certainty.shown(row["difference_interval"], "+"),
        )
        for row in rows
    ]
    if state["untrained"] is not None:
        cells.append(
            (
                "untrained encoder",
                f"{state['untrained']:.4f}",
                certainty.shown(state["untrained_interval"]),
                "1",
                "",
                "",
            )
        )
    names = (state["objective"], "95 %", "seeds", f"over '{rows[0]['point']}'", "95 %")
    for name, column in zip(names, list(zip(*cells, strict=True))[1:], strict=True):
        table.add_column(
            Text(name), justify="right", min_width=max(map(len, column))
        )  # labels are folded, numbers are not
    for row in cells:
        table.add_row(*map(Text, row))
    return table


def plus_minus(mean: float | None, spread: float | None, sign: str = "") -> str:
    """A mean with its spread, as far as they are known."""
    if mean is None:
        return ""
    return f"{mean:{sign}.4f}" + ("" if spread is None else f" ± {spread:.4f}")
