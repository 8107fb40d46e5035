"""What a checkpoint says of its trial, read without torch and without its tensors: for checks before the work. `checkpoint` verifies it."""

import json
from pathlib import Path
from typing import Any

from trainables.config import formats

PATTERN = "step-*.safetensors"
LARGEST = 100 * 2**20  # bytes of a header that safetensors itself accepts


def config_in(path: Path) -> dict[str, Any] | None:
    """The configuration in a checkpoint, or in the newest one of a folder; None where none can be read: `checkpoint` then says why."""
    if path.is_dir():
        found = (config_in(file) for file in sorted(path.glob(PATTERN), reverse=True))
        return next((config for config in found if config is not None), None)
    if not path.is_file():  # a pipe would never answer
        return None
    try:
        with path.open("rb") as file:
            length = int.from_bytes(
                file.read(8), "little"
            )  # safetensors: the length of a JSON header, the header, the tensors
            header = json.loads(file.read(length)) if length <= LARGEST else {}
        values = json.loads(header["__metadata__"]["values"])
        return formats.as_written(values["config"], values.get("format", 1))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
