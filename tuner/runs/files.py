"""Writing files of a run."""

import os
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """Writes a text so that readers see the old text or the new one, never a part.

    On a full disc they go on seeing the old one, and no other file is left.

    Raises:
        OSError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from None  # errors of a write do not name the file
