"""What a checkpoint says of its trial, read without torch and without its tensors: for checks before the work.

`checkpoint` verifies it.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trainables.config import formats

PATTERN = "step-*.safetensors"
LARGEST = 100 * 2**20  # bytes of a header that safetensors itself accepts


def config_in(path: Path) -> dict[str, Any] | None:
    """The configuration in a checkpoint or in the newest one of a folder. None if it cannot be read."""
    for values in _all_values(path):
        if isinstance(config := values.get("config"), Mapping):
            return formats.as_written(config, values.get("format", 1))
    return None


def history_in(path: Path) -> list[dict[str, Any]]:
    """The metrics of each epoch in a checkpoint, or in the newest one of a folder; empty where none can be read."""
    return next((values["history"] for values in _all_values(path) if isinstance(values.get("history"), list)), [])


def is_checkpoint(path: Path) -> bool:
    """Whether a file is a checkpoint, by its head."""
    return path.is_file() and _values(path) is not None


def _all_values(path: Path) -> Iterator[dict[str, Any]]:
    """The plain values in a checkpoint, or in those of a folder, the newest first. Unreadable ones are left out."""
    if path.is_dir():
        for file in sorted(path.glob(PATTERN), reverse=True):
            yield from _all_values(file)
    elif path.is_file() and (values := _values(path)) is not None:  # a pipe would never answer
        yield values


def _values(path: Path) -> dict[str, Any] | None:
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")  # safetensors: length of a JSON header, header, tensors
            header = json.loads(file.read(length)) if length <= LARGEST else {}
        values = json.loads(header["__metadata__"]["values"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return values if isinstance(values, dict) else None
