"""Faults of a trial's surroundings, its discs and its network. The trial waits until they are mended."""

import errno
import os
import re
from pathlib import Path

FULL = {errno.ENOSPC, errno.EDQUOT}
MACHINE = {
    *FULL,
    errno.EROFS,
    errno.EIO,
    errno.EREMOTEIO,
    errno.ESTALE,
    errno.ENOTCONN,
    errno.ENODEV,
    errno.ENXIO,
    errno.ENOMEDIUM,
    errno.ENOLCK,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.ETIMEDOUT,
}
PROBE = 2**20  # bytes that a folder must hold before a trial is started in it, where it has no checkpoint to go by


def fault(error: BaseException, folder: Path) -> str | None:
    """Says which fault of the surroundings caused an error, and what to do. None if the trial or the user caused it.

    A file that is missing, or may not be read, is the user's. Errors that this one was raised in place of count as
    well.

    Args:
        error: of a trial.
        folder: that the trial writes to, for errors that name no file.
    """
    seen: BaseException | None = error
    while seen is not None:
        if (number := _number(seen)) in MACHINE:
            where = getattr(seen, "filename", None) or folder
            advice = "make room there" if number in FULL else "mend that"
            return f"{where}: {os.strerror(number)}; {advice}"
        seen = seen.__cause__ or seen.__context__
    return None


def _number(error: BaseException) -> int | None:
    """The errno of an error, also of one that has it in its text only: safetensors' end with "(os error 28)"."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    if type(error).__name__ == "SafetensorError" and (found := re.search(r"\(os error (\d+)\)", str(error))):
        return int(found[1])
    return None


def require_room(folder: Path) -> None:
    """Tries whether a trial's folder has room for another checkpoint, so that no trial trains in vain.

    Raises:
        OSError: it does not, or the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    size = max([file.stat().st_size for file in folder.glob("step-*")], default=PROBE)
    probe = folder / f".probe.{os.getpid()}"
    try:
        with probe.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, size))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from None
    finally:
        probe.unlink(missing_ok=True)
