"""What `tuner evaluate` scored of the trials of a run: a line of JSON for each checkpoint, in the trial's folder."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NAME = "evaluations.jsonl"


def note(checkpoint: Path, scored: Mapping[str, Any]) -> None:
    """Keeps the scores of a checkpoint that lies in a run; those of any other checkpoint are only printed.

    Args:
        checkpoint: its file.
        scored: what `tuner evaluate --json` prints of it.

    Raises:
        OSError: the folder cannot be written.
    """
    folder = checkpoint.absolute().parent
    if folder.parent.name == "trials" and (folder.parent.parent / "manifest.json").is_file():
        line = f"{json.dumps(scored)}\n".encode()
        with (folder / NAME).open("a+b") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                line = line if file.read() == b"\n" else b"\n" + line  # the last one was cut short
            file.write(line)


def read(folder: Path) -> list[dict[str, Any]]:
    """The scores that were kept in a trial's folder, oldest first. A line that is not whole is passed over."""
    try:
        lines = (folder / NAME).read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            content = json.loads(line)
        except ValueError:
            continue
        found += [content] if isinstance(content, dict) else []
    return found
