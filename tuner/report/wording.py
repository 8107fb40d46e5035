"""Words about a run that the terminal, the closing lines and exported files share."""

from collections.abc import Collection

from optuna.trial import FrozenTrial

from tuner.report import certainty
from tuner.report.view import RunView, TrialView
from tuner.runs.hints import counted
from tuner.search.records import was_stopped_as_asked

UNTRAINED = "the untrained encoder"


def state_of(trial: TrialView) -> str:
    """A trial's state, and on how many workers it runs; a collapsed trial is called so, whatever its score is."""
    if trial.workers is not None and trial.state == "running":
        return f"running on {counted(trial.workers, 'worker')}"
    return f"{trial.state}, collapsed" if trial.collapsed else trial.state


def stopped_at(trial: FrozenTrial, epochs: int) -> str:
    """At which of its epochs a trial was stopped, and whether the user asked for that."""
    last = max(trial.intermediate_values, default=int(trial.user_attrs["metrics"]["epoch"]))
    return f"stopped at epoch {last} of {epochs}{' as asked' if was_stopped_as_asked(trial) else ''}"


def proposed(trial: TrialView, telling: Collection[str]) -> str:
    """What makes a trial: its point and its seed, or its proposed values.

    Args:
        trial: of the run.
        telling: the keys whose values are listed.
    """
    if trial.point is not None:
        return f"{trial.point}, seed {trial.values['seed']}"
    return ", ".join(f"{title(key)} {brief(value)}" for key, value in trial.values.items() if key in telling)


def no_gain(run: RunView, score: float | None = None) -> str:
    """Says that a score is no clear gain over the untrained encoder; "" where it is one.

    A mean over seeds has no interval of the difference. It counts as a gain where it is better.

    Args:
        run: the view of the run.
        score: of a trial, or of a point of a table; by default the best score of the run.
    """
    score = run.best_score if score is None else score
    if run.untrained is None or score is None:
        return ""
    images = None if run.points else run.validation_images
    return doubt(score, run.untrained, UNTRAINED, run.objective, run.mode, images)


def doubt(score: float, other: float, name: str, metric: str, mode: str, images: int | None) -> str:
    """Says that a score is no clear gain over another score on the same images, called `name`; "" where it is one."""
    if not certainty.better(score, other, mode):
        return f"not {certainty.side(mode)} {name}"
    interval = certainty.of_scores_apart(score, other, metric, images)
    if interval is None or certainty.clear(interval, mode):
        return ""
    return f"within the noise of {images} images of {name}"


def scored_on(metric: str, images: int | None) -> str:
    """A metric, and the images that it is measured on where it is a share of them."""
    return f"{metric} on {of_images(images)}" if certainty.is_share(metric) else metric


def of_images(images: int | None) -> str:
    """The validation split with its number of images, where the number is known."""
    return "the validation split" if images is None else counted(images, "validation image")


def title(key: str) -> str:
    """A dotted key as a table shows it."""
    return key.removeprefix("teacher.").removesuffix(".kind")


def brief(value: object) -> str:
    """A value as a table shows it; the elements of a list, such as parts of an encoder, are joined by a plus."""
    if isinstance(value, list | tuple):
        return " + ".join(map(brief, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
