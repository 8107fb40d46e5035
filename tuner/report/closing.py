"""The closing lines of a search: the best score, how sure it is, what it has to beat, and the next commands."""

from pathlib import Path

from optuna.trial import FrozenTrial

from tuner.plan.spec import SearchSpec
from tuner.report import certainty
from tuner.report.view import RunView
from tuner.report.viewer import view_of
from tuner.report.wording import UNTRAINED, doubt, no_gain, scored_on, stopped_at
from tuner.runs.hints import command, counted, resume_hint, shown
from tuner.runs.run import Run
from tuner.search.study import Study, key_of


def lines(run: Run, study: Study, exported: Path) -> list[str]:
    """What a search prints at its end; a table of points has printed its scores above.

    Args:
        run: the run.
        study: of the run.
        exported: the file with the best configuration.
    """
    spec, view = study.spec, view_of(run, study)
    if (stopped := study.best_stopped()) is not None:
        told = ended_early(run, study, view, stopped)
    else:
        told = [scored_by(spec.trial.evaluation.network)] if spec.table else scores(view, _default_label(study))
    longer = ("--epochs", 4 * spec.trial.train.epochs)
    return [
        *told,
        *used(view),
        f"best configuration: {shown(exported)}",
        "next:",
        f"  {command('tuner', 'status', run.path)}",
        f"  {command('tensorboard', '--logdir', run.tensorboard_folder)}",
        f"  {command('tuner', 'train', exported, *longer, *_resources(spec))}",
    ]


def scores(run: RunView, default: str | None) -> list[str]:
    """The best trial beside what it has to beat, each with its interval, and what may be said of the differences.

    Args:
        run: the view of the run, of which at least one trial is complete.
        default: what trial 0000, the space's first known good point, is called; None where the space knows none.
    """
    assert run.best_score is not None
    metric, mode, images = run.objective, run.mode, run.validation_images
    first = run.trials[0] if default else None
    best = f"best teacher, the {default}" if first and first.key == run.best else "best teacher"
    rows = [(f"{best} (trial {run.best})", run.best_score, run.best_interval)]
    if first and first.key != run.best and first.score is not None:
        early = "" if first.state == "complete" else f", {first.state} at epoch {first.epoch}"
        rows.append((f"{default} (trial {first.key}{early})", first.score, first.interval))
    if run.untrained is not None:
        rows.append(("untrained encoder", run.untrained, run.untrained_interval))
    width = max(len(name) for name, _, _ in rows)
    lines = [f"{scored_on(metric, images)}{', with 95 % intervals' if rows[0][2] else ''}"]
    lines += [f"  {name:<{width}}  {score:.4f}  {certainty.shown(interval)}".rstrip() for name, score, interval in rows]
    if reason := no_interval(metric, images):
        lines.append(reason)
    rivals = [] if run.untrained is None else [(run.untrained, UNTRAINED)]
    if first and first.state == "complete" and first.key != run.best and first.score is not None:
        rivals.append((first.score, f"the {default}"))
    lines += [f"the best is {compared(run.best_score, score, name, metric, mode, images)}" for score, name in rivals]
    return [*lines, chosen(run), scored_by(run.network)]


def ended_early(run: Run, study: Study, view: RunView, stopped: FrozenTrial) -> list[str]:
    """What a search came to that the user ended before any trial was complete.

    Args:
        run: the run.
        study: of the run.
        view: of the run.
        stopped: the best stopped trial.
    """
    score, where = stopped.values[0], scored_on(view.objective, view.validation_images)
    interval = certainty.of_score(score, view.objective, view.validation_images)
    sure = f" (95 % {certainty.shown(interval)})" if interval else ""
    when = stopped_at(stopped, study.epochs_of(stopped))
    gain = f", {reason}" if (reason := no_gain(view, score)) else ""
    lines = [
        "the search was ended as asked before any trial was complete",
        f"best stopped trial: {key_of(stopped)}, {when}, {where} {score:.4f}{sure}{gain}",
        scored_by(view.network),
    ]
    return [*lines, *([f"trials are left; {resume_hint(run)}"] if study.unasked else [])]


def compared(score: float, other: float, name: str, metric: str, mode: str, images: int | None) -> str:
    """Whether a score is better than another one on the same images, and how sure that is."""
    where = doubt(score, other, name, metric, mode, images) or f"{certainty.side(mode)} {name}"
    interval = certainty.of_scores_apart(score, other, metric, images) if certainty.better(score, other, mode) else None
    return f"{where}: {score - other:+.4f}" + (f" (95 % {certainty.shown(interval, '+')})" if interval else "")


def used(run: RunView) -> list[str]:
    """A line that says how long slots were up, and how much of that they had a trial; none where it is not known."""
    if not run.slot_seconds or run.utilisation is None:
        return []
    return [f"slots were up for {run.slot_seconds:,.0f} s in all, {run.utilisation:.0%} of it with a trial"]


def chosen(run: RunView) -> str:
    """Says that the best of several trials is chosen on the images that it is scored on."""
    complete = sum(trial.state == "complete" for trial in run.trials)
    best = f"it is the best of {counted(complete, 'complete trial')}"
    share = certainty.is_share(run.objective)
    return f"{best}, chosen on these images: expect a little less on others" if share else best


def scored_by(network: str) -> str:
    """Whose score a teacher's score is."""
    student = network == "student"
    return f"a teacher's score is {'that of the student that it taught' if student else 'its own'}"


def no_interval(metric: str, images: int | None) -> str:
    """Why no interval is printed; "" where one is."""
    if not certainty.is_share(metric):
        return f"no intervals: {metric} is no share of images"
    return "no intervals: the number of validation images was not recorded" if images is None else ""


def _default_label(study: Study) -> str | None:
    space = study.space
    return space.firsts(study.spec.trial.method.name) if space and space.known_good else None


def _resources(spec: SearchSpec) -> list[str]:
    """Options of `tuner train` for the workers that the search had."""
    resources = spec.resources
    options = ["--workers", f"{resources.workers}"]
    options += ["--cpus-per-worker", f"{resources.cpus_per_worker}"] if resources.cpus_per_worker != 1 else []
    options += ["--gpus-per-worker", f"{resources.gpus_per_worker:g}"] if resources.gpus_per_worker else []
    return options if spec.address == "local" else [*options, "--address", spec.address]
