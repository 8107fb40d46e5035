"""A table of points in place of a space: each point is run in full, with several seeds."""

import statistics
from collections.abc import Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState

from trainables.config import trial as c
from trainables.config.errors import UserError
from trainables.config.evaluation import METRICS
from trainables.data import initial
from trainables.data.check import check_length, training_images
from tuner.plan import jobs
from tuner.plan.space import Space, configured
from tuner.plan.spec import SearchSpec, check_workers
from tuner.plan.table import spelt_out

OWNED = ("seed", "data.", "evaluation.")  # keys and sections that points may not set,
FREE = ("data.labels.", "evaluation.protocols")  # but for these


class Points(Space):
    """Proposes all points of a table with the first seed, then with the next: a table that is cut short is balanced.

    They are the known good points of a space without other points. A proposal names its point and its seed, and so does
    the journal.
    """

    def configure(self, base: c.TrialConfig, values: dict[str, object]) -> c.TrialConfig:
        """The trial of a point and a seed; `load` has seen that it is valid."""
        return c.changed(base.plain(), values)


def load(spec: SearchSpec) -> Points:
    """The table of a search.

    Raises:
        UserError: a point has a key that TrialConfig lacks or that belongs to the search, or makes no valid trial.
    """
    points = {label: spelt_out(values, spec.trial.method.name) for label, values in spec.table.items()}
    for label, config in configs(spec).items():
        check_workers(spec.resources, config)
        if config.train.epochs < 1:
            raise UserError(f"point '{label}': train.epochs = 0: a search needs at least 1 epoch")
        giver, listed = METRICS.get(spec.objective.metric), config.evaluation.protocols
        if giver is not None and giver not in listed:
            rule = f"needs '{giver}' in the point's evaluation.protocols, which has only {', '.join(listed)}"
            raise UserError(f"point '{label}': objective.metric = {spec.objective.metric}: {rule}")
    seeds = range(spec.trial.seed, spec.trial.seed + spec.seeds)
    c.changed(spec.trial.plain(), {"seed": seeds[-1]})  # so all seeds are valid

    def suggest(trial: optuna.Trial) -> dict[str, object]:
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
    """Raises UserError where a point asks for more than the data hold, or begins with a file that is not there.

    `settled` has checked the rest.
    """
    counts: dict[c.Data, int] = {}
    for label, config in configs(spec).items():
        try:
            jobs.require_inputs_kept(config)
            initial.content(config.init)
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


def scores(spec: SearchSpec, trials: Sequence[FrozenTrial]) -> dict[str, dict[int, float]]:
    """The scores of all complete trials, by label and seed; a point without any has an empty dictionary."""
    by_label: dict[str, dict[int, float]] = {label: {} for label in spec.table}
    for trial in sorted(trials, key=lambda trial: trial.number):
        if trial.state == TrialState.COMPLETE:
            by_label[trial.params["point"]][trial.params["seed"]] = trial.values[0]
    return by_label


def best(spec: SearchSpec, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The points whose seeds are all complete, best mean first, each as its trial with the first seed."""
    means = [
        (statistics.fmean(by_seed.values()), label)
        for label, by_seed in scores(spec, trials).items()
        if len(by_seed) == spec.seeds
    ]
    means.sort(key=lambda row: row[0], reverse=spec.objective.mode == "max")
    firsts = {trial.params["point"]: trial for trial in trials if trial.params["seed"] == spec.trial.seed}
    return [firsts[label] for _, label in means]
