"""The files of a trial's folder: their names, who may write them, and which are kept. Imports no torch.

`step-<step>.safetensors` is the checkpoint after an epoch, or after so many steps (`train.checkpoint_steps`).
`step-<step>.timed.safetensors` is one by time (`train.checkpoint_minutes`), or where a segment left the trial. It is
kept until a newer checkpoint of either kind is there.
`step-<step>[.timed].safetensors.pin-<holder>` pins a checkpoint: it is kept until each holder has removed its pin.
`traces.safetensors` holds what was traced within epochs (`trainables.running.traces`).
`views.png` shows the views of its first images (`trainables.running.views_picture`).
`.owner` holds the token of the newest segment that took the folder.
Names that begin with a dot and end with a process id are unfinished.
"""

import contextlib
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trainables.running.checkpoint_header import PATTERN

ABANDONED = 600.0  # seconds after which a temporary file is that of a writer that was killed
OWNER = ".owner"
PIN = ".pin-"  # between the name of a checkpoint and that of a holder who needs it
TRACES = "traces.safetensors"
VIEWS = "views.png"
UNWRITTEN = (f".{PATTERN}.*", f".{TRACES}.*", f".{VIEWS}.*")  # what a writer that was killed leaves
UNFINISHED = (*UNWRITTEN, f"{OWNER}.*", ".probe.*")
_NAME = re.compile(r"step-(\d+)(\.timed)?\.safetensors")


class Disowned(RuntimeError):
    """Another segment has taken the trial's folder: this one must not write there any more."""


@dataclass(frozen=True, order=True)
class Name:
    """What a checkpoint's file is called. Names are ordered by step."""

    step: int
    timed: bool = False

    def __str__(self) -> str:
        return f"step-{self.step:010d}{'.timed' if self.timed else ''}.safetensors"

    @classmethod
    def of(cls, path: Path) -> "Name | None":
        """The name of a checkpoint's file. None if no checkpoint is called that."""
        found = _NAME.fullmatch(path.name)
        return cls(int(found[1]), found[2] is not None) if found else None


def take(folder: Path, owner: str) -> None:
    """Makes `owner` the one that may write a trial's folder, and deletes what earlier ones left unfinished.

    An earlier one that still lives finds its unfinished file gone, or the other token beside it: `Disowned`.
    """
    if not owner:
        return
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{OWNER}.{os.getpid()}"
    temporary.write_text(owner)
    temporary.rename(folder / OWNER)
    for pattern in UNFINISHED:
        for file in folder.glob(pattern):
            file.unlink(missing_ok=True)


def require_owner(folder: Path, owner: str) -> None:
    """Refuses a write by a segment that no longer owns the folder.

    Raises:
        Disowned: another token is there, or none.
    """
    if not owner:
        return
    try:
        present = (folder / OWNER).read_text()
    except FileNotFoundError:
        present = ""
    if present != owner:
        raise Disowned(f"{folder}: was taken by {present or 'nobody'}; {owner} must not write there any more")


def write_atomically(path: Path, save: Callable[[Path], None], owner: str) -> None:
    """Writes a file of a trial's folder: flushed under a temporary name, made visible by one rename.

    Args:
        path: of the file; its folder is made where it is missing. A folder in its place is moved aside.
        save: writes the content to the path that it is given.
        owner: token of the segment; empty where the folder has no owner.

    Raises:
        OSError, and what `save` raises: the disc is full, or cannot be written; nothing of it is left there.
        Disowned: another segment has taken the folder; nothing was written.
    """
    folder = path.parent
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{path.name}.{os.getpid()}"
    try:
        save(temporary)
        temporary.chmod(0o644)
        _flush(temporary)
        if path.is_dir():  # what a rename cannot replace
            path.rename(path.with_name(f"{path.name}.folder-{time.time_ns()}"))
        require_owner(folder, owner)
        temporary.rename(path)
    except FileNotFoundError:  # whoever takes the folder deletes unfinished files
        require_owner(folder, owner)
        raise
    except BaseException:  # such as of a full disc, which it must not keep full
        temporary.unlink(missing_ok=True)
        raise
    _flush(folder)


def pin(path: Path, holder: str) -> bool:
    """Has a checkpoint kept until `unpin`, whatever is written after it.

    Args:
        path: of the checkpoint.
        holder: what needs it, such as "pause" or the key of the trial that starts from it; part of a file's name.

    Returns:
        Whether the checkpoint is there. False: it was dropped before, so another one must be chosen.
    """
    _pin_of(path, holder).touch()
    if path.exists():
        return True
    unpin(path, holder)
    return False


def unpin(path: Path, holder: str) -> None:
    """Removes a holder's pin; the checkpoint is dropped by the next write, unless it would be kept anyway."""
    _pin_of(path, holder).unlink(missing_ok=True)


def unpin_all(folder: Path, holder: str) -> None:
    """Removes a holder's pins from all checkpoints of a trial's folder."""
    for file in folder.glob(f"{PATTERN}{PIN}{holder}"):
        file.unlink(missing_ok=True)


def pinned(path: Path) -> bool:
    """Whether anything needs a checkpoint to be kept."""
    return any(path.parent.glob(f"{path.name}{PIN}*"))


def prune(folder: Path, newest: Name, keep: int) -> None:
    """Deletes checkpoints that are no longer needed, and what writers that were killed left unfinished.

    Args:
        folder: of the trial.
        newest: the checkpoint that was just written. Those of later steps do not count: they are damaged ones that were
            passed over.
        keep: how many checkpoints that are not timed stay. A timed one stays while nothing is newer.
    """
    found = {name: path for path in folder.glob(PATTERN) if (name := Name.of(path)) and not path.is_dir()}
    past = sorted(name for name in found if name <= newest)
    kept = {newest, *[name for name in past if not name.timed][-keep:]}
    for name in past:
        if name not in kept and not pinned(found[name]):
            found[name].unlink(missing_ok=True)
    for pattern in UNWRITTEN:
        for file in folder.glob(pattern):
            if _age(file) > ABANDONED:
                file.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _pin_of(path: Path, holder: str) -> Path:
    return path.with_name(f"{path.name}{PIN}{holder}")


def _age(path: Path) -> float:
    """Seconds since a file was written; 0 where it is gone."""
    with contextlib.suppress(FileNotFoundError):
        return time.time() - path.stat().st_mtime
    return 0.0
