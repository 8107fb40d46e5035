"""The best configurations of a search, as files that a full run starts from."""

import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml
from optuna.trial import FrozenTrial

from trainables.config.errors import UserError
from tuner.plan.points import label_of
from tuner.report import certainty
from tuner.report.points import plus_minus
from tuner.report.viewer import view_of
from tuner.report.wording import brief, no_gain, of_images, stopped_at
from tuner.runs.hints import counted
from tuner.runs.run import Run
from tuner.search.study import Study, key_of


def export(run: Run, study: Study, top: int, output: Path) -> list[Path]:
    """Writes the `top` best complete trials, or points of a table, as TrialConfig files: output, output-2, ...

    Where the user ended the search before a trial was complete, it writes the best stopped trial alone. A point is
    ranked by the mean over its seeds and written with its first seed: no seed is picked for its luck.

    Raises:
        UserError: no trial is complete, or no point is with all of its seeds.
    """
    best = study.best(top)
    if not best and (stopped := study.best_stopped()) is not None:
        best = [stopped]
    if not best:
        lacking = "point has all of its seeds" if study.spec.table else "trial is"
        raise UserError(f"{run.path}: no {lacking} complete yet, so there is nothing to export")
    output.parent.mkdir(parents=True, exist_ok=True)
    paths = [output.with_stem(f"{output.stem}-{rank}") if rank > 1 else output for rank in range(1, len(best) + 1)]
    for rank, (path, trial) in enumerate(zip(paths, best, strict=True), start=1):
        content = searched_first(study.config_of(trial).plain(), trial.user_attrs["values"])
        path.write_text(_header(run, study, rank, trial) + _compact(content))
    return paths


def searched_first(nested: Mapping[str, object], keys: Iterable[str]) -> dict[str, object]:
    """Returns `nested` in another order: the values that `keys` name, and the sections that hold them, come first.

    The file stays complete, so that it makes the same trial under the defaults of a later version.

    Args:
        nested: values of a configuration.
        keys: dotted.
    """
    below: dict[str, list[str]] = {}
    for key in keys:
        first, _, rest = key.partition(".")
        below.setdefault(first, []).append(rest)
    names = [*(name for name in below if name in nested), *(name for name in nested if name not in below)]
    return {
        name: searched_first(v, below.get(name, [])) if isinstance(v := nested[name], Mapping) else v for name in names
    }


def _header(run: Run, study: Study, rank: int, trial: FrozenTrial) -> str:
    """Comments at the top of a file: which trial it is, how sure its score is, and what was searched."""
    spec, view = study.spec, view_of(run, study)
    metric, epochs, images = spec.objective.metric, study.epochs_of(trial), view.validation_images
    complete, value = len(study.best(spec.trials)), trial.values[0]
    label = label_of(spec, trial)
    point = next((point for point in view.points or () if point.point == label), None)
    if point is None or point.mean is None:
        place = f"number {rank} of {counted(complete, 'complete trial')}" if complete else "no trial is complete"
        who, score = f"trial {key_of(trial)}, {place}", f"{value:.4f}"
        interval = certainty.of_score(value, metric, images)
    else:
        who, value = f"point '{label}', number {rank} of {counted(complete, 'complete point')}", point.mean
        score = f"{plus_minus(point.mean, point.sd)} over {counted(spec.seeds, 'seed')}"
        interval = point.interval or certainty.of_score(value, metric, images)
    sure = f" (95 % {certainty.shown(interval)})" if interval else ""
    after = f"after {counted(epochs, 'epoch')}" if complete else f"when it was {stopped_at(trial, epochs)}"
    where = f" on {of_images(images)}" if certainty.is_share(metric) else ""
    doubt = no_gain(view, value)
    versions, commit = run.manifest.get("versions", {}), run.manifest.get("commit")
    facts = {
        "search": f"{spec.name} ({run.path}), {who}",
        "score": f"{metric} {score}{sure}{where} {after}{f', {doubt}' if doubt else ''}",
        "untrained encoder": "not scored" if view.untrained is None else f"{view.untrained:.4f}",
        "scored network": view.network,
        "searched (first in the file; the rest is shared by all trials)": ", ".join(
            f"{key} = {brief(v)}" for key, v in trial.user_attrs["values"].items()
        ),
        "version": f"teacher-tuner {versions.get('teacher-tuner')}, commit {commit}",
    }
    return "".join(f"{line}\n" for name, fact in facts.items() for line in _comment(f"{name}: {fact}"))


def _comment(text: str) -> list[str]:
    return textwrap.wrap(
        text, 118, initial_indent="# ", subsequent_indent="#   ", break_long_words=False, break_on_hyphens=False
    )


def _compact(content: Mapping[str, object]) -> str:
    """YAML in which every collection that fits into a line of 120 columns stands in one line."""

    def brace(node: yaml.Node, depth: int) -> int:
        """Puts a collection in braces where it fits; returns its length in one line."""
        if not isinstance(node, yaml.CollectionNode):
            return len(node.value)
        children = [part for child in node.value for part in (child if isinstance(child, tuple) else (child,))]
        length = sum(brace(child, depth + 1) + 2 for child in children)
        node.flow_style = depth > 0 and length + 2 * depth < 118
        return length

    tree = yaml.compose(yaml.safe_dump(content, sort_keys=False), yaml.SafeLoader)
    assert tree is not None
    brace(tree, 0)
    return yaml.serialize(tree, Dumper=yaml.SafeDumper, width=140)
