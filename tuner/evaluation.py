"""`tuner evaluate`: the scores of a checkpoint, or of two side by side, with all that they depend on."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainables import config as c
from trainables.errors import UserError
from trainables.evaluation.corruptions import difference
from trainables.evaluation_config import PROTOCOLS, known
from trainables.settings import read_settings
from tuner import runs, spec
from tuner.full_run import KEY
from tuner.study import Study, key_of

DEFAULT = ("knn", "linear")
SETTABLE = ("data.root", "data.download", "data.labels.", "evaluation.")
CELLS = "corruptions/"  # what the names of a table of corruptions begin with


def evaluate(given: argparse.Namespace) -> int:
    """`tuner evaluate`."""
    protocols, changes = _protocols(given.protocol or DEFAULT), read_settings(given.set)
    if odd := [key for key in changes if not key.startswith(SETTABLE)]:
        raise UserError(f"--set {odd[0]}: only {', '.join(f'{key}*' for key in SETTABLE)} can be changed for an evaluation")
    if "evaluation.protocols" in changes:
        raise UserError("--set evaluation.protocols: is of a trial; what a checkpoint is scored by is named by --protocol")
    if given.network:
        changes["evaluation.network"] = given.network
    if given.save and "linear" not in protocols:
        raise UserError(f"--save {given.save}: goes with --protocol linear, whose classifier it writes")
    paths = [_checkpoints_of(path) for path in (given.checkpoint, given.against) if path is not None]
    if given.save:
        given.save.parent.mkdir(parents=True, exist_ok=True)
        given.save.touch()  # what cannot be written is to be known before the work
    checkpoints = [_read(path) for path in paths]
    if given.save and (reason := _unlike_torchvision(checkpoints[0])):
        raise UserError(f"--save {given.save}: {reason}")
    if given.against:
        _check_same_data(checkpoints[0], checkpoints[1], changes)
    facts, subject = _scored(checkpoints[0], given.split, protocols, changes)
    if given.save:
        _save(given.save, subject)
        facts["saved"] = str(given.save)
    other = _scored(checkpoints[1], given.split, protocols, changes)[0] if given.against else None
    print(json.dumps(_plain(facts, other), indent=2) if given.json else "\n".join(_lines(facts, other)))
    return 0


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
        folder = run.trial_folder(KEY)
    else:
        best = Study(run.journal, spec.parse(run.spec), None, reading=True).best(1)
        if not best:
            raise UserError(f"{path}: no trial is complete yet, so there is nothing to evaluate")
        folder = run.trial_folder(key_of(best[0]))
    if not folder.exists():
        raise UserError(f"{folder}: no such checkpoint")
    return folder


def _read(path: Path) -> Any:
    """A checkpoint, the newest valid one of a folder."""
    from trainables import checkpoint

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
    from trainables.encoders import unlike_torchvision

    return unlike_torchvision(c.parse(found.config).encoder)


def _check_same_data(one: Any, other: Any, changes: Mapping[str, Any]) -> None:
    values = {key: value for key, value in changes.items() if key.startswith("data.")}
    first, second = (c.changed(found.config, values).data.model_dump() for found in (one, other))
    for key in first.keys() - {"root", "download"}:
        if first[key] != second[key]:
            raise UserError(f"--against {other.path}: data.{key} = {second[key]}, which is {first[key]} for {one.path}")


def _scored(found: Any, split: str, protocols: tuple[str, ...], changes: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """The scores of a checkpoint with all that they depend on, and its subject."""
    from trainables import train
    from trainables.group import Group, default_device

    scores, subject, learner = train.evaluate(found, split, protocols, changes, Group(device=default_device()))
    config = subject.config
    counted = dict.fromkeys(used for name in protocols for used in (name, *PROTOCOLS[name].USES))
    facts = {
        "checkpoint": str(found.path),
        "step": learner.step_index,
        "network": config.evaluation.network,
        "split": split,
        "protocols": list(protocols),
        "settings": {name: config.evaluation.protocol(name).model_dump(mode="json") for name in counted},
        "before_feature_norm": config.evaluation.before_feature_norm,
        "labels": {**config.data.labels.model_dump(mode="json"), "images": len(subject.labelled)},
        "seed": config.seed,
        "scores": scores,
    }
    return facts, subject


def _save(path: Path, subject: Any) -> None:
    """The backbone under torchvision's names, with the linear protocol's classifier."""
    from safetensors.torch import save_file

    from trainables.encoders import plain_resnet_state
    from trainables.evaluation.linear import frozen_probe

    classifier = frozen_probe(subject)
    state = plain_resnet_state(subject.parts) | {"fc.weight": classifier.weight, "fc.bias": classifier.bias}
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, path)


def _plain(facts: Mapping[str, Any], other: Mapping[str, Any] | None) -> dict[str, Any]:
    """For programs: each score under its own name, beside what it depends on."""
    every = {**facts, **facts["scores"]}
    del every["scores"]
    return every | ({} if other is None else {"against": _plain(other, None), "difference": difference(facts["scores"], other["scores"])})


def _lines(facts: Mapping[str, Any], other: Mapping[str, Any] | None) -> list[str]:
    """For the terminal: a column for each checkpoint, and one for what the second has above the first."""
    columns = [facts] if other is None else [facts, other]
    found = [one["scores"] for one in columns] + ([] if other is None else [difference(facts["scores"], other["scores"])])
    shown = ["network", "split", "checkpoint", "step", *(["saved"] if "saved" in facts else [])]
    lines = [f"{name:<16} {'  '.join(str(one[name]) for one in columns if name in one)}" for name in shown]
    lines.append(f"{'protocols':<16} {', '.join(facts['protocols'])}  (--json gives their settings)")
    if other is not None:
        lines.append(f"{'':<24} {'this':>9} {'against':>9} {'more':>9}")
    single = [name for name in found[0] if not name.startswith(CELLS) or name == f"{CELLS}mean"]
    signs = ["", "", "+"]
    lines += [f"{name:<24} " + " ".join(f"{one[name]:{sign}9.4f}" for one, sign in zip(found, signs, strict=False)) for name in single]
    return [*lines, *_cells(found[-1], "+" if other else "")]


def _cells(scores: Mapping[str, float], sign: str) -> list[str]:
    """The table of corruptions: a line for each type, a column for each severity, and their means; nothing where there is none."""
    cells = {tuple(name.split("/")[1:]): score for name, score in scores.items() if name.startswith(CELLS) and name.count("/") == 2}
    if not cells:
        return []
    kinds, severities = (list(dict.fromkeys(cell[axis] for cell in cells)) for axis in (0, 1))
    rows = {kind: [cells[kind, severity] for severity in severities] + [scores[f"{CELLS}{kind}"]] for kind in kinds}
    rows["mean"] = [scores[f"{CELLS}severity_{severity}"] for severity in severities] + [scores[f"{CELLS}mean"]]
    title = f"{'more' if sign else 'top-1'} by severity"
    header = f"{title:<24} " + " ".join(f"{column:>9}" for column in [*severities, "mean"])
    return [header, *(f"{name:<24} " + " ".join(f"{value:{sign}9.4f}" for value in row) for name, row in rows.items())]
