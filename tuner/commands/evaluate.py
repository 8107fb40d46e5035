"""`tuner evaluate`: the scores of a checkpoint, or of two side by side, with all that they depend on."""

import argparse
import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from trainables.config import trial as c
from trainables.config.errors import BrokenOff, TrialFailure, UserError
from trainables.config.evaluation import known, require_fit, with_recipe
from trainables.config.settings import read_settings
from trainables.data import progress
from trainables.data.check import check_data
from trainables.running.checkpoint_header import PATTERN, config_in
from trainables.running.messages import Evaluation
from tuner.commands import checks, searching
from tuner.plan import jobs, spec
from tuner.plan.spec import SearchSpec
from tuner.report import scores
from tuner.report.bars import Bars
from tuner.report.scores import Scored
from tuner.runs import evaluated, kept_scores
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
    slots = _slots(arguments)
    with Bars() as bars:
        checkpoints = _read_all(paths, arguments.save, changes, bars)
        asked = [Evaluation(str(found.path.absolute()), arguments.split, protocols, changes) for found in checkpoints]
        if arguments.save:
            asked[0] = replace(asked[0], save=str(arguments.save.absolute()))
        scored = _here(asked, checkpoints, bars) if slots is None else _on_slots(asked, slots, bars)
    for one in scored:
        with contextlib.suppress(OSError):  # such as of a run that others may read only
            kept_scores.note(Path(one.checkpoint), scores.as_json(one))
    first, second = scored[0], scored[1] if len(scored) > 1 else None
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


@dataclass(frozen=True)
class _SlotsWanted:
    """Where an evaluation runs that is not to run in this process.

    Attributes:
        spec: its cluster, and the resources of a slot.
        wait: seconds to wait for room.
        run: directory for logs; by default a folder beside the checkpoint.
    """

    spec: SearchSpec
    wait: float
    run: Path | None = None


def _slots(arguments: argparse.Namespace) -> _SlotsWanted | None:
    """The slots that the command line asks for; None where it asks for none."""
    if arguments.workers is None and arguments.address is None:
        if arguments.run is not None:
            raise UserError(f"--run {arguments.run}: goes with --workers or --address")
        return None
    if arguments.run is not None:
        jobs.require_kept(arguments.run, "--run")
    resources = {
        "workers": arguments.workers or 1,
        "cpus_per_worker": arguments.cpus_per_worker,
        "gpus_per_worker": arguments.gpus_per_worker,
    }
    address = arguments.address or jobs.default_address()
    wanted = spec.parse({"name": "evaluate", "address": address, "resources": resources})
    checks.require_cluster(wanted)
    return _SlotsWanted(wanted, searching.seconds_to_wait(arguments.wait, address), arguments.run)


def _read_all(paths: Sequence[Path], save: Path | None, changes: Changes, bars: Bars) -> "list[Checkpoint]":
    """Reads the checkpoints. The first one can be saved where that is asked, and they can be compared."""
    checkpoints = []
    for position, path in enumerate(paths):
        bars.tell("checkpoints read", position, len(paths))
        checkpoints.append(_read(path))
    first, *others = checkpoints
    if save and (reason := _unlike_torchvision(first)):
        raise UserError(f"--save {save}: {reason}")
    for other in others:
        _check_same_data(first, other, changes)
    return checkpoints


def _here(asked: Sequence[Evaluation], checkpoints: "Sequence[Checkpoint]", bars: Bars) -> list[Scored]:
    """Scores checkpoints in this process."""
    from trainables.networks.group import Group, default_device
    from trainables.running import scoring

    with progress.told_to(bars.tell):
        return [
            Scored(**scoring.scored(evaluation, Group(device=default_device()), found))
            for evaluation, found in zip(asked, checkpoints, strict=True)
        ]


def _on_slots(asked: Sequence[Evaluation], slots: _SlotsWanted, bars: Bars) -> list[Scored]:
    """Scores checkpoints on slots of a cluster; each protocol of each is a piece of work."""
    bars.say(searching.first_words(slots.spec.address))
    paths = [one.checkpoint for one in asked]
    with _logs(slots, Path(paths[0]).parent) as run, evaluated.kept(run, paths) as names:
        from tuner.fleet import evaluations  # Ray, which takes a while

        readable = [replace(one, checkpoint=name) for one, name in zip(asked, names, strict=True)]
        results = evaluations.score(run, slots.spec, readable, bars.say, bars.tell, slots.wait)
    return [Scored(**{**result, "checkpoint": path}) for result, path in zip(results, paths, strict=True)]


@contextlib.contextmanager
def _logs(slots: _SlotsWanted, beside: Path) -> Iterator[runs.Run]:
    """A run directory for the logs of an evaluation. It stays where the evaluation fails, and the error names it.

    Args:
        slots: where the evaluation runs.
        beside: the folder of the first checkpoint, which all nodes see.

    Raises:
        UserError: it cannot be made.
    """
    run = _log_run(slots, beside)
    try:
        yield run
    except TrialFailure as failure:
        pieces = [folder.name for folder in (run.path / "trials").iterdir()]
        log = run.trial_log(pieces[0], str(failure)) if len(pieces) == 1 else run.path / "trials"
        raise TrialFailure(f"{failure}\n  log: {log}") from None
    except BrokenOff as end:
        raise BrokenOff(f"{end}\n  log: {run.driver_log}") from None
    except BaseException:
        shutil.rmtree(run.path, ignore_errors=True)
        raise
    shutil.rmtree(run.path, ignore_errors=True)


def _log_run(slots: _SlotsWanted, beside: Path) -> runs.Run:
    evaluated.remove_abandoned(beside)
    content = slots.spec.plain()
    if slots.run is not None:
        return runs.Run.create(slots.run, "evaluate", content, 0)
    try:
        folder = Path(tempfile.mkdtemp(prefix=evaluated.PREFIX, dir=beside))
    except OSError as error:
        rule = f"logs cannot be written beside the checkpoint ({error.strerror})"
        raise UserError(f"{beside}: {rule}; name a directory that all nodes see with --run") from None
    try:
        return runs.Run.create(folder, "evaluate", content, 0)
    except UserError:
        shutil.rmtree(folder, ignore_errors=True)
        raise


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
