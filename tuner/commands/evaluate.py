"""`tuner evaluate`: the scores of a checkpoint, or of two side by side, with all that they depend on."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trainables.config import trial as c
from trainables.config.errors import UserError
from trainables.config.evaluation import known, require_fit, with_recipe
from trainables.config.settings import read_settings
from trainables.data import progress
from trainables.data.check import check_data
from trainables.running.checkpoint_header import PATTERN, config_in
from tuner.commands import searching
from tuner.plan import jobs
from tuner.report import scores
from tuner.report.bars import Bars
from tuner.report.scores import Scored
from tuner.runs import run as runs
from tuner.search.study import key_of

if TYPE_CHECKING:  # they need torch, which is imported when all arguments have been checked
    from trainables.running.checkpoint import Checkpoint

Changes = Mapping[str, object]  # values by dotted key
DEFAULT = ("knn", "linear")
SETTABLE = ("data.root", "data.download", "data.labels.", "evaluation.")  # those that end with a dot are sections


def run(arguments: argparse.Namespace) -> int:
    """Prints the scores of a checkpoint, or of two; returns the exit status."""
    if arguments.save:
        jobs.require_kept(arguments.save, "--save")
    protocols = _protocols(arguments.protocol or DEFAULT)
    changes = _changes(arguments)
    if arguments.save and "linear" not in protocols:
        raise UserError(f"--save {arguments.save}: goes with --protocol linear, whose classifier it writes")
    paths = [_checkpoints_of(path) for path in (arguments.checkpoint, arguments.against) if path is not None]
    for path in paths:
        _check_early(path, protocols, changes)
    if arguments.save:
        arguments.save.parent.mkdir(parents=True, exist_ok=True)
        arguments.save.touch()  # a file that cannot be written is refused before the work
    with Bars() as bars:
        first, second = _work(paths, arguments.split, arguments.save, protocols, changes, bars)
    if arguments.json:
        print(json.dumps(scores.as_json(first, second), indent=2))
    else:
        print("\n".join(scores.lines(first, second)))
    return 0


def _changes(arguments: argparse.Namespace) -> dict[str, object]:
    """The keys that the evaluation changes.

    Raises:
        UserError: an evaluation cannot change one of them.
    """
    changes: dict[str, object] = dict(read_settings(arguments.set))
    if refused := [key for key in changes if not key.startswith(SETTABLE)]:
        rule = "an evaluation can change only data.root, data.download, and keys of data.labels and of evaluation"
        raise UserError(f"--set {refused[0]}: {rule}")
    if "evaluation.protocols" in changes:
        rule = "is of a trial; what a checkpoint is scored by is named by --protocol"
        raise UserError(f"--set evaluation.protocols: {rule}")
    if arguments.network:
        changes["evaluation.network"] = arguments.network
    return changes


def _work(
    paths: Sequence[Path], split: str, save: Path | None, protocols: tuple[str, ...], changes: Changes, bars: Bars
) -> tuple[Scored, Scored | None]:
    """Scores one checkpoint or two, and writes the file that is asked for.

    Args:
        paths: of the checkpoints.
        split: to be scored.
        save: where backbone and classifier of the first one are written.
        protocols: their names.
        changes: dotted keys that differ from the trial's.
        bars: show how far it is.
    """
    checkpoints = []
    for position, path in enumerate(paths):
        bars.tell("checkpoints read", position, len(paths))
        checkpoints.append(_read(path))
    first, *others = checkpoints
    if save and (reason := _unlike_torchvision(first)):
        raise UserError(f"--save {save}: {reason}")
    for other in others:
        _check_same_data(first, other, changes)
    with progress.told_to(bars.tell):
        scored = _scored(first, split, protocols, changes, save)
        return scored, _scored(others[0], split, protocols, changes) if others else None


def _protocols(names: Sequence[str]) -> tuple[str, ...]:
    try:
        return known(names)
    except ValueError as error:
        raise UserError(f"--protocol {' '.join(names)}: {error}") from None


def _checkpoints_of(path: Path) -> Path:
    """A checkpoint, or the folder that holds some.

    Of a run directory it is the folder of the trial that counts: the full one, or the best of a search.
    """
    if not path.exists():
        raise UserError(f"{path}: no such checkpoint")
    if not (path / "manifest.json").is_file():
        if path.is_dir() and not any(path.glob(PATTERN)) and (why := runs.why_deleted(path)):
            raise UserError(f"{path}: has no checkpoint any more: {why}; its configuration is in the journal still")
        return path
    source = runs.Run(path)
    if source.kind == "train":
        folder = source.trial_folder(runs.FULL)
    else:
        best = searching.read(source).best(1)
        if not best:
            raise UserError(f"{path}: no trial is complete yet, so there is nothing to evaluate")
        folder = source.trial_folder(key_of(best[0]))
    if not folder.exists():
        raise UserError(f"{folder}: no such checkpoint")
    return folder


def _check_early(path: Path, protocols: tuple[str, ...], changes: Changes) -> None:
    """Refuses what cannot be scored before torch is imported, and before any checkpoint is read as a whole."""
    nested = config_in(path)
    if nested is not None:
        config = c.changed(with_recipe(nested, changes), changes)
        require_fit(protocols, config)
        check_data(config)


def _read(path: Path) -> "Checkpoint":
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


def _unlike_torchvision(found: "Checkpoint") -> str | None:
    """Why the backbone of a checkpoint is none of torchvision's; None where it is."""
    from trainables.networks.encoders import unlike_torchvision

    return unlike_torchvision(c.parse(found.config).encoder)


def _check_same_data(first: "Checkpoint", second: "Checkpoint", changes: Changes) -> None:
    """Refuses to compare checkpoints of different data."""
    values = {key: value for key, value in changes.items() if key.startswith("data.")}
    one, other = (c.changed(found.config, values).data.model_dump() for found in (first, second))
    for key in one.keys() - {"root", "download"}:
        if one[key] != other[key]:
            difference = f"data.{key} = {other[key]}, which is {one[key]} for {first.path}"
            raise UserError(f"--against {second.path}: {difference}")


def _scored(
    found: "Checkpoint", split: str, protocols: tuple[str, ...], changes: Changes, save: Path | None = None
) -> Scored:
    """Scores a checkpoint in this process; writes its backbone and classifier where `save` says so."""
    from trainables.networks.group import Group, default_device
    from trainables.running import scoring

    asked = scoring.Evaluation(str(found.path), split, protocols, changes, str(save) if save else None)
    return Scored(**scoring.scored(asked, Group(device=default_device()), found))
