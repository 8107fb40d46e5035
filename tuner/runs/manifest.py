"""The manifest of a run: what made it, with which versions, on which machines."""

import json
import os
import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, get_args

from trainables.config import formats
from trainables.config.errors import UserError
from tuner.runs.files import write_atomically

PACKAGES = ("teacher-tuner", "torch", "torchvision", "ray", "optuna", "pydantic", "numpy", "pyarrow")
Kind = Literal["search", "train", "evaluate"]
Content = dict[str, Any]  # nested plain values, as JSON has them
NAME = "manifest.json"


def made(kind: Kind, seed: int) -> Content:
    """The manifest of a run that is made now by this program.

    Args:
        kind: of the run.
        seed: of the search, or of the full run's trial.
    """
    machine = {"machine": platform.platform(), "processor": platform.processor() or platform.machine()}
    return {
        "kind": kind,
        "format": formats.FORMAT,
        "created": time.time(),
        "seed": seed,
        "commit": _commit(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "hardware": {**machine, "cpus": os.cpu_count()},
    }


def read(folder: Path) -> Content:
    """The manifest of the run in a folder.

    Raises:
        UserError: the folder is no run, its manifest is damaged, or a later version made it.
    """
    path = folder.absolute() / NAME
    if not path.is_file():
        there = "no run directory (it has no manifest.json)" if folder.exists() else "no such run directory"
        raise UserError(f"{folder}: {there}")
    try:
        content = json.loads(path.read_text())
        known = content["kind"] in get_args(Kind) and isinstance(content.get("sessions", []), list)
        format_ = format_of(content)
    except (ValueError, KeyError, TypeError, AttributeError):
        known = False
    if not known:
        raise UserError(f"{path}: is damaged; put the whole file back")
    if format_ > formats.FORMAT:
        rule = f"this one knows formats up to {formats.FORMAT}"
        raise UserError(f"{folder}: was made by a later version, in format {format_}; {rule}")
    return content


def format_of(content: Content) -> int:
    """The format of a run; a manifest without one is of the first format."""
    return int(content.get("format", 1))


def write(folder: Path, content: Content) -> None:
    """Writes the manifest of the run in a folder."""
    write_atomically(folder / NAME, json.dumps(content, indent=2))


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of this program's checkout; None where it was installed without one."""
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None
