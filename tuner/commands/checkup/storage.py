"""Checks of the disc or file system that is to hold a run: a launch makes the quick ones, `tuner doctor` all."""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainables.config.errors import BrokenOff, UserError
from trainables.running import surroundings
from tuner.commands.checkup.base import Finding, fault, ok, warning
from tuner.plan.spec import SearchSpec
from tuner.plan.storage import UNITS, as_size
from tuner.runs import manifest
from tuner.runs.hints import counted

LEAST_ROOM = 2**21  # bytes: the journal, logs and a small checkpoint
SPEED_BYTES = 32 * UNITS["MB"]  # that are written to measure the speed
SLOW = 20 * UNITS["MB"]  # bytes a second
ELSEWHERE = "choose another folder with --run"


def probed(path: Path) -> Path:
    """The folder in which a run would be made: the nearest one that is there."""
    there = path.absolute()
    while not there.is_dir() and there != there.parent:
        there = there.parent
    return there


def require_usable(path: Path) -> None:
    """Tries in milliseconds what a run does with its folder: write, rename, lock.

    Args:
        path: of the run, which need not exist.

    Raises:
        UserError: the storage cannot hold a run.
        BrokenOff: the storage of a run that is to go on is full or at fault.
    """
    folder = probed(path)
    with _tried(folder) as probe:
        rename(probe)
        if not locks(probe):
            raise UserError(f"{folder}: files there cannot be locked, so two drivers could run one search; {ELSEWHERE}")
        if (free := room(folder)) < LEAST_ROOM and not _is_run(folder):  # a run that goes on waits for room
            raise UserError(f"{folder}: only {as_size(free)} are free; make room there, or {ELSEWHERE}")


@contextmanager
def _tried(folder: Path) -> Iterator[Path]:
    """A folder of its own to try things in.

    Raises:
        UserError: nothing can be written there.
    """
    try:
        probe = Path(tempfile.mkdtemp(prefix=".teacher-tuner-probe-", dir=folder))
        try:
            yield probe
        finally:
            shutil.rmtree(probe, ignore_errors=True)
    except OSError as error:
        if _is_run(folder) and (said := surroundings.fault(error, folder)):
            raise BrokenOff(said) from None
        raise UserError(f"{folder}: cannot hold a run ({error.strerror}); {ELSEWHERE}") from None


def _is_run(folder: Path) -> bool:
    """Whether a run lies in a folder, so that no other one can be chosen."""
    return (folder / manifest.NAME).is_file()


def rename(probe: Path) -> None:
    """Replaces a file by another one, and renames a folder, as a run does.

    Raises:
        UserError: the file system does not do so.
    """
    first, second, folder = probe / "first", probe / "second", probe / "folder"
    folder.mkdir()
    first.write_text("old")
    second.write_text("new")
    second.replace(first)
    folder.rename(probe / "renamed")
    if first.read_text() != "new" or second.exists() or not (probe / "renamed").is_dir():
        raise UserError(f"{probe.parent}: files there cannot be renamed in one step; {ELSEWHERE}")


def locks(probe: Path) -> bool:
    """Whether a second lock of a file is refused, as `tuner.runs.lock` needs it."""
    with (probe / "lock").open("w") as first, (probe / "lock").open("a") as second:
        try:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        return False


def room(folder: Path) -> int:
    """Bytes that are free."""
    there = os.statvfs(folder)
    return there.f_bavail * there.f_frsize


def files(path: Path) -> list[Finding]:
    """Whether a run can be made, renamed and locked."""
    require_usable(path)
    return [ok("storage", f"{probed(path)}: can be written, renames in one step, locks")]


def speed(path: Path) -> list[Finding]:
    """How fast the storage writes what must survive a loss of power, as a checkpoint must."""
    folder = probed(path)
    count = min(SPEED_BYTES, room(folder) // 4)
    content = os.urandom(count)
    with _tried(folder) as probe:
        begun = time.monotonic()
        with (probe / "file").open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        per_second = count / max(time.monotonic() - begun, 1e-9)
    text = f"{as_size(per_second)} a second, flushed to the disc"
    if per_second < SLOW:
        advice = "trials wait for their checkpoints; choose a faster folder with --run, or checkpoint more rarely"
        return [warning("storage: speed", text, advice)]
    return [ok("storage: speed", text)]


def kept(spec: SearchSpec) -> int:
    """How many checkpoints of a trial there are at most: of epochs, one by time, and one that is being written."""
    train = spec.trial.train
    return train.keep_checkpoints + 1 + (train.checkpoint_minutes is not None)


def space(path: Path, spec: SearchSpec | None = None, checkpoint: int | None = None) -> Finding:
    """Whether the checkpoints of a search find room.

    Args:
        path: of the run.
        spec: of the search, if there is one.
        checkpoint: bytes of one, if that is known.
    """
    name, free = "storage: room", room(probed(path))
    fewer = "make room there, set storage.limit or a smaller trial.train.keep_checkpoints, or give another --run"
    if spec is None or checkpoint is None:
        text = f"{as_size(free)} are free"
        return ok(name, text) if free >= UNITS["GB"] else warning(name, text, f"make room there, or {ELSEWHERE}")
    needs, limit = spec.trials * kept(spec) * checkpoint, spec.storage.limit_bytes
    text = f"{as_size(free)} are free, the search needs "
    if limit is not None and limit < needs:
        needs, text = limit, f"{text}{as_size(limit)}, its storage.limit"
    else:
        each = f"{counted(spec.trials, 'trial')} x {kept(spec)} checkpoints of {as_size(checkpoint)}"
        text += f"{as_size(needs)} ({each})"
    if free < needs:
        return fault(name, text, fewer)
    return ok(name, text) if free >= 1.25 * needs else warning(name, text, fewer)
