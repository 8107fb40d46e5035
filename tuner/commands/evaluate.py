"""`tuner evaluate`: the scores of a checkpoint, or of two side by side, with all that they depend on."""

import argparse
import json
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainables.config import trial as c
from trainables.config.errors import UserError
from trainables.config.evaluation import PROTOCOLS, known, require_fit, with_recipe
from trainables.config.settings import read_settings
from trainables.data import progress
from trainables.data.check import check_data
from trainables.evaluation.protocols.corruptions import difference
from trainables.running.checkpoint_header import config_in
from tuner.plan import jobs, spec
from tuner.report import certainty
from tuner.report.bars import Bars
from tuner.runs import run as runs
from tuner.runs.hints import counted
from tuner.search.study import Study, key_of

DEFAULT = ("knn", "linear")
SETTABLE = ("data.root", "data.download", "data.labels.", "evaluation.")  # such that end with a dot are sections
TOP = 5  # answers that a second accuracy counts
CELLS = "corruptions/"  # what the names of a table of corruptions begin with


def run(given: argparse.Namespace) -> int:
    """Prints the scores of a checkpoint, or of two; returns the exit status."""
    if given.save:
        jobs.require_kept(given.save, "--save")
    protocols, changes = _protocols(given.protocol or DEFAULT), read_settings(given.set)
    if odd := [key for key in changes if not key.startswith(SETTABLE)]:
        rule = "an evaluation can change only data.root, data.download, and keys of data.labels and of evaluation"
        raise UserError(f"--set {odd[0]}: {rule}")
    if "evaluation.protocols" in changes:
        raise UserError(
            "--set evaluation.protocols: is of a trial; what a checkpoint is scored by is named by --protocol"
        )
    if given.network:
        changes["evaluation.network"] = given.network
    if given.save and "linear" not in protocols:
        raise UserError(f"--save {given.save}: goes with --protocol linear, whose classifier it writes")
    paths = [_checkpoints_of(path) for path in (given.checkpoint, given.against) if path is not None]
    for path in paths:
        _check_early(path, protocols, changes)
    if given.save:
        given.save.parent.mkdir(parents=True, exist_ok=True)
        given.save.touch()  # what cannot be written is to be known before the work
    with Bars() as bars:
        facts, other = _work(given, paths, protocols, changes, bars)
    print(json.dumps(_plain(facts, other), indent=2) if given.json else "\n".join(_lines(facts, other)))
    return 0


def _work(
    given: argparse.Namespace, paths: Sequence[Path], protocols: tuple[str, ...], changes: Mapping[str, Any], bars: Bars
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The scores of one checkpoint, or of two, and the file that is asked for."""
    checkpoints = []
    for position, path in enumerate(paths):
        bars.tell("checkpoints read", position, len(paths))
        checkpoints.append(_read(path))
    if given.save and (reason := _unlike_torchvision(checkpoints[0])):
        raise UserError(f"--save {given.save}: {reason}")
    if given.against:
        _check_same_data(checkpoints[0], checkpoints[1], changes)
    with progress.told_to(bars.tell):
        facts, subject = _scored(checkpoints[0], given.split, protocols, changes)
        if given.save:
            _save(given.save, subject)
            facts["saved"] = str(given.save)
        return facts, _scored(checkpoints[1], given.split, protocols, changes)[0] if given.against else None


def _protocols(names: Any) -> tuple[str, ...]:
    try:
        return known(names)
    except ValueError as error:
        raise UserError(f"--protocol {' '.join(names)}: {error}") from None


def _checkpoints_of(path: Path) -> Path:
    """A checkpoint, or the folder that holds some; of a run directory the trial that counts: the full one, or the best of a search."""
    if not path.exists():
        raise UserError(f"{path}: no such checkpoint")
    if not (path / "manifest.json").is_file():
        return path
    run = runs.Run(path)
    if run.kind == "train":
        folder = run.trial_folder(runs.FULL)
    else:
        best = Study(run.journal, spec.parse(run.spec), None, reading=True).best(1)
        if not best:
            raise UserError(f"{path}: no trial is complete yet, so there is nothing to evaluate")
        folder = run.trial_folder(key_of(best[0]))
    if not folder.exists():
        raise UserError(f"{folder}: no such checkpoint")
    return folder


def _check_early(path: Path, protocols: tuple[str, ...], changes: Mapping[str, Any]) -> None:
    """What cannot be scored is said before torch is imported, and before any checkpoint is read as a whole."""
    nested = config_in(path)
    if nested is not None:
        config = c.changed(with_recipe(nested, changes), changes)
        require_fit(protocols, config)
        check_data(config)


def _read(path: Path) -> Any:
    """A checkpoint, the newest valid one of a folder."""
    from trainables.running import checkpoint

    if path.is_dir():
        newest = checkpoint.newest(path)
        if newest is None:
            raise UserError(f"{path}: holds no valid checkpoint (step-*.safetensors)")
        return newest
    try:
        return checkpoint.read(path)
    except checkpoint.Damaged as fault:
        raise UserError(str(fault)) from None


def _unlike_torchvision(found: Any) -> str | None:
    """Why the backbone of a checkpoint is none of torchvision's; None where it is."""
    from trainables.networks.encoders import unlike_torchvision

    return unlike_torchvision(c.parse(found.config).encoder)


def _check_same_data(one: Any, other: Any, changes: Mapping[str, Any]) -> None:
    values = {key: value for key, value in changes.items() if key.startswith("data.")}
    first, second = (c.changed(found.config, values).data.model_dump() for found in (one, other))
    for key in first.keys() - {"root", "download"}:
        if first[key] != second[key]:
            raise UserError(f"--against {other.path}: data.{key} = {second[key]}, which is {first[key]} for {one.path}")


def _scored(
    found: Any, split: str, protocols: tuple[str, ...], changes: Mapping[str, Any]
) -> tuple[dict[str, Any], Any]:
    """The scores of a checkpoint with all that they depend on, and its subject."""
    from trainables.networks.group import Group, default_device
    from trainables.running import scoring

    scores, subject, learner = scoring.evaluate(found, split, protocols, changes, Group(device=default_device()))
    config = subject.config
    counted = dict.fromkeys(used for name in protocols for used in (name, *PROTOCOLS[name].USES))
    facts = {
        "checkpoint": str(found.path),
        "step": learner.step_index,
        "network": config.evaluation.network,
        "split": split,
        "images": len(subject.scored),
        "classes": subject.classes,
        "protocols": list(protocols),
        "settings": {name: config.evaluation.protocol(name).model_dump(mode="json") for name in counted},
        "before_feature_norm": config.evaluation.before_feature_norm,
        "labels": {**config.data.labels.model_dump(mode="json"), "images": len(subject.labelled)},
        "seed": config.seed,
        "scores": scores,
    }
    return facts, subject


def _save(path: Path, subject: Any) -> None:
    """The backbone under torchvision's names, with the linear protocol's classifier.

    The file's metadata has in JSON what a program needs that feeds it: the names of the `classes` in the order of the classifier's outputs,
    `mean` and `std` by which images in [0, 1] are standardised, and their `size` [height, width].
    """
    import torch
    from safetensors.torch import save_file

    from trainables.data import augment
    from trainables.data import images as data
    from trainables.evaluation.protocols.linear import frozen_probe
    from trainables.networks.encoders import plain_resnet_state

    classifier = frozen_probe(subject)
    state = plain_resnet_state(subject.parts) | {"fc.weight": classifier.weight, "fc.bias": classifier.bias}
    mean, std = (
        v.flatten().tolist()
        for v in augment.constants(torch.empty(0, subject.scored.channels, 1, 1, dtype=torch.float64))
    )
    height, width = subject.scored.pixels.shape[1:3]
    facts = {
        "classes": data.class_names(subject.config.data, subject.classes),
        "mean": mean,
        "std": std,
        "size": [height, width],
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    mode = (
        path.stat().st_mode
    )  # `evaluate` has made it as files are made here; safetensors puts one in its place that only its owner reads
    save_file(tensors, path, metadata={"format": "pt", **{name: json.dumps(fact) for name, fact in facts.items()}})
    path.chmod(stat.S_IMODE(mode))


def _plain(facts: Mapping[str, Any], other: Mapping[str, Any] | None) -> dict[str, Any]:
    """For programs: each score under its own name, beside what it depends on."""
    every = {**facts, **facts["scores"]}
    del every["scores"]
    return every | (
        {}
        if other is None
        else {"against": _plain(other, None), "difference": difference(facts["scores"], other["scores"])}
    )


def _lines(facts: Mapping[str, Any], other: Mapping[str, Any] | None) -> list[str]:
    """For the terminal: a column for each checkpoint, A and B where there are two, and what B has above A."""
    columns = [facts] if other is None else [facts, other]
    apart = {} if other is None else difference(facts["scores"], other["scores"])
    lines = []
    for name in ("network", "split", "checkpoint", "step", "saved"):
        told = [
            str(one[name]) + (f", {counted(one['images'], 'image')}" if name == "split" else "")
            for one in columns
            if name in one
        ]
        if len(set(told)) < 2:
            lines += [f"{name:<16} {text}" for text in told[:1]]
        else:
            lines += [f"{name + ' ' + letter:<16} {text}" for letter, text in zip("AB", told, strict=True)]
    lines.append(f"{'protocols':<16} {', '.join(facts['protocols'])}  (--json gives their settings)")
    names = [name for name in facts["scores"] if not name.startswith(CELLS) or name == f"{CELLS}mean"]
    if facts["classes"] <= TOP:  # where every answer is among the five
        names = [name for name in names if not name.endswith(f"_top{TOP}")]
    interval = "" if not any(map(certainty.is_share, names)) else f"  95 % of {counted(facts['images'], 'image')}"
    if other is None:
        lines += [f"{'':<24} {'score':>9}{interval}"]
        return [
            *lines,
            *(_line(name, [facts["scores"][name]], facts["images"]) for name in names),
            *_cells(facts["scores"], "top-1"),
        ]
    lines += [f"{'':<24} {'A':>9} {'B':>9} {'B - A':>9}{interval}"]
    lines += [
        _line(name, [facts["scores"][name], other["scores"][name], apart[name]], facts["images"]) for name in names
    ]
    return [*lines, *_cells(apart, "B - A", "+")]


def _line(name: str, values: Sequence[float], images: int) -> str:
    """A score with its interval; or that of A, of B, and their difference with the interval of the difference."""
    numbers = " ".join(f"{value:{sign}9.4f}" for value, sign in zip(values, ("", "", "+"), strict=False))
    if len(values) == 1:
        interval = certainty.shown(certainty.of_score(values[0], name, images))
    else:
        interval = certainty.shown(certainty.of_scores_apart(values[1], values[0], name, images), "+")
    return f"{name:<24} {numbers}  {interval}".rstrip()


def _cells(scores: Mapping[str, float], title: str, sign: str = "") -> list[str]:
    """The table of corruptions: a line for each type, a column for each severity, and their means; nothing where there is none."""
    cells = {
        tuple(name.split("/")[1:]): score
        for name, score in scores.items()
        if name.startswith(CELLS) and name.count("/") == 2
    }
    if not cells:
        return []
    kinds, severities = (list(dict.fromkeys(cell[axis] for cell in cells)) for axis in (0, 1))
    rows = {kind: [cells[kind, severity] for severity in severities] + [scores[f"{CELLS}{kind}"]] for kind in kinds}
    rows["mean"] = [scores[f"{CELLS}severity_{severity}"] for severity in severities] + [scores[f"{CELLS}mean"]]
    header = f"{f'{title} by severity':<24} " + " ".join(f"{column:>9}" for column in [*severities, "mean"])
    return [header, *(f"{name:<24} " + " ".join(f"{value:{sign}9.4f}" for value in row) for name, row in rows.items())]
