"""What a search ends with, in words: the best score, how sure it is, what it has to beat, and the commands to go on with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuner.plan.spec import SearchSpec
from tuner.report import certainty
from tuner.report.view import UNTRAINED, command, counted, doubt, overview, scored_on, shown
from tuner.runs.run import Run
from tuner.search.study import Study


def lines(run: Run, study: Study, exported: Path) -> list[str]:
    """What a search prints at its end; a table of points has printed its scores above."""
    return [
        *(
            [scored_by(study.spec.trial.evaluation.network)]
            if study.spec.table
            else scores(overview(run, study), _default_label(study))
        ),
        f"best configuration: {shown(exported)}",
        "next:",
        f"  {command('tuner', 'status', run.path)}",
        f"  {command('tensorboard', '--logdir', run.tensorboard_folder)}",
        f"  {command('tuner', 'train', exported, '--epochs', 4 * study.spec.trial.train.epochs, *_resources(study.spec))}",
    ]


def scores(state: Mapping[str, Any], default: str | None) -> list[str]:
    """The best trial beside what it has to beat, each with its interval, and what may be said of the differences.

    Args:
        state: of the run, by `report.overview`.
        default: what trial 0000, the space's first known good point, is called; None where the space knows none.
    """
    metric, mode, images = state["objective"], state["mode"], state["validation_images"]
    first = state["trials"][0] if default else None
    rows = [(f"best teacher (trial {state['best']})", state["best_score"], state["best_interval"])]
    if first and first["key"] == state["best"]:
        rows = [(f"best teacher, the {default} (trial {state['best']})", state["best_score"], state["best_interval"])]
    elif first and first["score"] is not None:
        early = "" if first["state"] == "complete" else f", {first['state']} at epoch {first['epoch']}"
        rows.append((f"{default} (trial {first['key']}{early})", first["score"], first["interval"]))
    if state["untrained"] is not None:
        rows.append(("untrained encoder", state["untrained"], state["untrained_interval"]))
    width = max(len(name) for name, _, _ in rows)
    lines = [f"{scored_on(metric, images)}{', with 95 % intervals' if rows[0][2] else ''}"]
    lines += [f"  {name:<{width}}  {score:.4f}  {certainty.shown(interval)}".rstrip() for name, score, interval in rows]
    if reason := no_interval(metric, images):
        lines.append(reason)
    if state["untrained"] is not None:
        lines.append(
            f"the best is {compared(state['best_score'], state['untrained'], UNTRAINED, metric, mode, images)}"
        )
    if first and first["state"] == "complete" and first["key"] != state["best"]:
        lines.append(
            f"the best is {compared(state['best_score'], first['score'], f'the {default}', metric, mode, images)}"
        )
    return [*lines, chosen(state), scored_by(state["network"])]


def compared(score: float, other: float, name: str, metric: str, mode: str, images: int | None) -> str:
    """Whether a score is better than another one on the same images, and how sure that is."""
    where = doubt(score, other, name, metric, mode, images) or f"{certainty.side(mode)} {name}"
    interval = certainty.of_scores_apart(score, other, metric, images) if certainty.better(score, other, mode) else None
    return f"{where}: {score - other:+.4f}" + (f" (95 % {certainty.shown(interval, '+')})" if interval else "")


def chosen(state: Mapping[str, Any]) -> str:
    """That the best of several is chosen on the images that it is scored on."""
    best = f"it is the best of {counted(sum(row['state'] == 'complete' for row in state['trials']), 'complete trial')}"
    share = certainty.is_share(state["objective"])
    return f"{best}, chosen on these images: expect a little less on others" if share else best


def scored_by(network: str) -> str:
    """Whose score a teacher's score is."""
    return (
        "a teacher's score is that of the student that it taught"
        if network == "student"
        else "a teacher's score is its own"
    )


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
    wanted = spec.resources
    options = ["--workers", f"{wanted.workers}"]
    options += ["--cpus-per-worker", f"{wanted.cpus_per_worker}"] if wanted.cpus_per_worker != 1 else []
    options += ["--gpus-per-worker", f"{wanted.gpus_per_worker:g}"] if wanted.gpus_per_worker else []
    return options if spec.address == "local" else [*options, "--address", spec.address]
