"""The format that runs and checkpoints are written in, and how earlier formats are read.

1: before formats were noted.
2: LARS may keep the learning rate in its momentum buffer (`optim.lr_in_buffer`). These numbers changed without a key:
   votes of weighted kNN at temperatures below 0.01, which could all be 0; masks of Spatial Ensemble, whose p was
   rounded to 16 bits for neurons and to 24 bits otherwise; DINO's centre and queues under `precision: fp64`, which were
   fp32; and `teacher.momenta` beside `smoothing.kind: se`, which had no effect.
3: ReSSL's student may see both views (`method.student_views`), as the placement paper's presets have it. No number
   changed without a key.

What was a plain value before it was a section, such as `monitors`, is read as that section in every format.
"""

import functools
from collections.abc import Mapping
from importlib import metadata
from typing import Any

FORMAT = 3
CHANGED = 2  # the last format since which a number changed without a key


def as_written(trial: Mapping[str, Any], written: int) -> dict[str, Any]:
    """Returns a stored trial with the keys that its version did not have, at the values by which that version trained.

    Args:
        trial: nested values of a TrialConfig, all that its version knew.
        written: the format of the run or the checkpoint that holds it.
    """
    optim, encoder, monitors = trial.get("optim"), trial.get("encoder"), trial.get("monitors")
    trial = values_as_written(trial, written)
    if isinstance(encoder, Mapping) and isinstance(kind := encoder.get("norm"), str):
        trial["encoder"] = {**encoder, "norm": {"kind": kind}}  # was a plain value once
    if isinstance(monitors, list):
        trial["monitors"] = {"names": monitors, "every": None}  # was a list once, and nothing was traced
    if written < 2 and isinstance(optim, Mapping):  # no section at all is for the validation to say
        trial["optim"] = {"lr_in_buffer": False, **optim}
    return trial


def values_as_written(values: Mapping[str, Any], written: int) -> dict[str, Any]:
    """Returns what differs from a stored trial, such as a point of a table, with the keys that its version did not
    have in a section that replaces the trial's as a whole: another method.

    Args:
        values: by dotted key, or nested.
        written: the format of the run that holds them.
    """
    method = values.get("method")
    if written >= 3 or not isinstance(method, Mapping) or method.get("name") != "ressl":
        return {**values}
    return {**values, "method": {"student_views": "first", **method}}


def search_as_written(spec: Mapping[str, Any], written: int) -> dict[str, Any]:
    """Returns a stored search with the keys that its version did not have, in its trial and in its points.

    Args:
        spec: nested values of a search; what is no section is for the validation to say.
        written: the format of the run that holds it.
    """
    content, trial, points = {**spec}, spec.get("trial"), spec.get("points")
    if isinstance(trial, Mapping):
        content["trial"] = as_written(trial, written)
    if isinstance(points, Mapping):
        content["points"] = {
            label: values_as_written(point, written) if isinstance(point, Mapping) else point
            for label, point in points.items()
        }
    return content


def news(written: int) -> str | None:
    """Returns a line for a run of an earlier version that is resumed; None where no number has changed since.

    Args:
        written: the format of the run.
    """
    if written >= CHANGED:
        return None
    where = (
        "a kNN temperature below 0.01, a p close to 0 or 1, a queue or DINO's center in fp64, "
        "teacher.momenta with smoothing se"
    )
    since = f"begun by an earlier version (format {written}, now {FORMAT})"
    lars = "LARS keeps the update rule that the run began with"
    return f"{since}; from here on numbers differ where a trial has one of these: {where}; {lars}"


@functools.cache
def version() -> str | None:
    """Returns the version of this program; None where it is not installed."""
    try:
        return metadata.version("teacher-tuner")
    except metadata.PackageNotFoundError:
        return None
