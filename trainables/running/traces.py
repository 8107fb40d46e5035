"""The traces of a trial as a file of its folder, for figures and for users. Imports no torch.

`traces.safetensors` holds all rows so far. It is written anew with each checkpoint, before it, so it has every row that
the checkpoint has. A trial goes on from its checkpoint, which holds the same rows, and never reads this file.

    from safetensors.numpy import load_file
    traces = load_file("runs/search/trials/0000/traces.safetensors")

"steps" [rows] is the number of steps that were made before each row; the first row comes after `monitors.every` steps,
and none is of the weights before the first step. "gradient/<part>" [rows] is the largest absolute
gradient of the loss by the output of a part. "filter/student" and "filter/teacher" [rows, 16, 2] are the first rows of
the projector's last layer.

A row has 4 bytes for each of its numbers and 8 for its step: 292 bytes with both monitors and seven parts. Of 39,000
steps, one row for every 20 steps makes 0.6 MB, and one for each step 11 MB. There are at most 50,000 rows
(`config.monitors`).
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from trainables.config.errors import UserError, shown_name
from trainables.config.monitor import FILTER, GRADIENT, STEPS
from trainables.running import checkpoint_files as files

FILTER_DIMENSIONS = 3  # rows, filters, coordinates

Rows = dict[str, np.ndarray]
"""All rows of a trial's traces by name, and their "steps"."""


def write(folder: Path, rows: Mapping[str, np.ndarray], owner: str = "") -> None:
    """Writes the traces of a trial, at once or not at all.

    Args:
        folder: of the trial.
        rows: by name, "steps" among them.
        owner: token of the segment; empty where the folder has no owner.

    Raises:
        OSError, SafetensorError: the disc is full, or cannot be written.
        Disowned: another segment has taken the folder; nothing was written.
    """
    files.write_atomically(folder / files.TRACES, lambda path: save_file(dict(rows), path), owner)


def read(folder: Path) -> Rows:
    """Reads the traces of a trial.

    Raises:
        UserError: there are none, the file is damaged, or it holds something else.
    """
    path = folder / files.TRACES
    if not path.is_file():
        raise UserError(f"{folder}: has no {files.TRACES}; a trial is traced with monitors.every, such as 20 steps")
    try:
        rows = load_file(path)
    except (SafetensorError, OSError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    if fault := _fault(rows):
        raise UserError(f"{path}: holds no traces of a trial: {fault}")
    return rows


def _fault(rows: Rows) -> str:
    """Returns why a file of tensors holds no traces; "" where it holds some."""
    steps = rows.get(STEPS)
    if steps is None:
        return f"it has no '{STEPS}'"
    if steps.ndim != 1 or not np.issubdtype(steps.dtype, np.integer) or not len(steps):
        return f"'{STEPS}' is {_kind(steps)}, and must be whole numbers, at least one"
    if (steps[1:] <= steps[:-1]).any():
        return f"'{STEPS}' does not grow from row to row"
    for name, values in rows.items():
        at = f"{shown_name(name)} is {_kind(values)}, and must have"
        if values.shape[:1] != steps.shape:
            return f"{at} {len(steps)} rows, as '{STEPS}' has"
        if name.startswith(GRADIENT) and values.ndim != 1:
            return f"{at} a number in each row"
        if name.startswith(FILTER) and (values.ndim != FILTER_DIMENSIONS or values.shape[-1] != 2):
            return f"{at} points of two numbers in each row"
    filters = {name for name in rows if name.startswith(FILTER)}
    if lacking := {f"{FILTER}{network}" for network in ("student", "teacher")} - filters if filters else None:
        return f"it has {min(filters)} without {min(lacking)}"
    return ""


def _kind(values: np.ndarray) -> str:
    return f"{values.dtype} [{', '.join(map(str, values.shape))}]"
