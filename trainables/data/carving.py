"""Which stored train images are held out for validation, and which ones a file of labels names.

Needs no torch, because a launch asks it too.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from trainables.config.data import Data
from trainables.config.errors import UserError
from trainables.data import files

Names = Callable[[], Sequence[str]]
"""Returns the names of all stored train images, in order."""
DIGITS = 18  # of an index that fits into int64
SHOWN = 80  # characters of a line that an error shows


def permutation(count: int, data: Data) -> np.ndarray:
    """Returns a random order of range(count), a function of `data.split_seed` alone."""
    return np.random.default_rng(data.split_seed).permutation(count)


def listed(file: Path, names: Names | None) -> np.ndarray:
    """Returns the rows of the stored train split that `data.labels.file` names: sorted int64 [n], each once.

    Args:
        file: holds an index, or the name of an image, on each line.
        names: returns the images' names; None where images have no names.

    Raises:
        UserError: the file cannot be read, holds nothing, or a line names no image.
    """
    stated = files.lines(file, "data.labels.file")
    wanted = set(stated[stated[:1] == ["Index"] :])  # the head of a table of indices
    if not wanted:
        raise UserError(f"data.labels.file = '{file}': must hold an index on each line")
    if all(line.isdecimal() for line in wanted):
        if len(longest := max(wanted, key=len)) > DIGITS:
            raise UserError(f"data.labels.file = '{file}': there is no image {longest[:DIGITS]}...")
        return np.asarray(sorted({int(line) for line in wanted}), dtype=np.int64)
    if names is None:
        odd = next(line for line in stated if line in wanted and not line.isdecimal())
        raise UserError(f"data.labels.file = '{file}': '{odd[:SHOWN]}' must be an index; these images have no names")
    rows: dict[str, int] = {}
    for row, name in enumerate(names()):
        for alias in {name, name.rpartition("/")[2]} & wanted:
            if rows.setdefault(alias, row) != row:
                raise UserError(f"data.labels.file = '{file}': '{alias}' names several images; write {name}")
    if missing := sorted(wanted - rows.keys()):
        some = f"{len(missing)} of {len(wanted)} are no train images, such as '{missing[0][:SHOWN]}'"
        raise UserError(f"data.labels.file = '{file}': {some}")
    return np.asarray(sorted(set(rows.values())), dtype=np.int64)


def require_there(data: Data, named: np.ndarray, count: int) -> None:
    """Raises `UserError` where `data.labels.file` names a row that `count` stored train images do not have."""
    if named[-1] >= count:
        raise UserError(
            f"data.labels.file = '{data.labels.file}': there is no image {named[-1]}, the train split has {count}"
        )


def carved(data: Data, labels: np.ndarray, held_out: int, named: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns rows of the stored train split in random order: those of validation, and all others.

    Among the others, rows that `labels.file` names come first.

    Args:
        data: of the trial.
        labels: int64 [N] of the stored train images; below 0 means none. Validation takes only images with a label.
        held_out: how many validation images are wanted.
        named: rows that `labels.file` names, sorted; None where there is no such file.

    Raises:
        UserError: the file names what is not there, or too few images are left for validation.
    """
    is_listed = np.zeros(len(labels), dtype=bool)
    if named is not None:
        require_there(data, named, len(labels))
        is_listed[named] = True
    order = permutation(len(labels), data)
    may = order[((labels >= 0) & ~is_listed)[order]]
    if len(may) < held_out:
        place = "there" if named is None else "not in data.labels.file"
        raise UserError(f"data.validation_images = {held_out}: only {len(may)} labelled train images are {place}")
    is_held_out = np.zeros(len(labels), dtype=bool)
    is_held_out[may[:held_out]] = True
    others = order[~is_held_out[order]]
    return may[:held_out], np.concatenate([others[is_listed[others]], others[~is_listed[others]]])
