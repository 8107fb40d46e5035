"""The hash of the file that a trial begins with (`init`), and whether the file is there at all. Needs no torch.

Like the data, it lies where all nodes see it, and its content is part of what a trial is a function of.
"""

import functools
import hashlib
from pathlib import Path

from trainables.config.errors import UserError, nearest
from trainables.config.init import ENDINGS, Init
from trainables.data import pulse

CHUNK = 2**22  # bytes that are hashed at a time
SHOWN = 12  # digits of a hash that a message shows


def content(init: Init) -> str | None:
    """Returns the hash of the file's content; None where a trial begins with random weights.

    Raises:
        UserError: the file is missing, cannot be read, or has another content than `init.sha256` says.
    """
    path = init.path
    if path is None:
        return None
    try:
        if not path.is_file():
            raise UserError(f"init.path = '{path}': {_missing(path)}")
        stat = path.stat()
        found = _hash(path, stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise UserError(f"init.path = '{path}': cannot be read ({error.strerror})") from None
    if init.sha256 is not None and init.sha256 != found:
        was = f"has another content now (sha256 {found[:SHOWN]}..., not {init.sha256[:SHOWN]}...)"
        raise UserError(f"init.path = '{path}': {was}; put the file back, or begin another run with init.sha256=null")
    return found


@functools.lru_cache(maxsize=64)
def _hash(path: Path, size: int, changed: int) -> str:
    """Returns the hash of a file. Size and time of change are part of the key under which it is remembered."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            digest.update(piece)
            pulse.beat()
    return digest.hexdigest()


def _missing(path: Path) -> str:
    """Returns why there is no such file, and which one there is."""
    folder, why = (path, "is a folder; name a file in it") if path.is_dir() else (path.parent, "no such file")
    if not folder.is_dir():
        return f"{why}, for there is no folder {folder}"
    names = [entry.name for entry in folder.iterdir() if entry.suffix in ENDINGS and not entry.name.startswith(".")]
    if path.is_dir():
        return f"{why}, such as {max(names)}" if names else f"{why}; it holds none that ends in {', '.join(ENDINGS)}"
    return why + (nearest(path.name, names) if names else "")
