"""Finds the files of the papers' tables in `search_spaces/papers` by name, and has the size of a tryout.

The section `paper` in such a file is in `tuner.plan.paper`; `tuner.report.papers` prints the tables.
"""

from collections.abc import Iterable
from pathlib import Path

import search_spaces
from trainables.config.errors import UserError, nearest, shown_name
from tuner.plan import reading
from tuner.plan.spec import SearchSpec

FOLDER = Path(search_spaces.__file__).parent / "papers"
TOY = (
    "seeds=1",
    "resources={}",
    "trial.data={name: digits, train_images: 140, validation_images: 50}",
    "trial.encoder.width=4",
    "trial.encoder.stem=small",
    "trial.train.epochs=2",
    "trial.train.batch_size=70",
    "trial.train.shard_size=35",
    "trial.train.precision=fp32",
    "trial.optim.lr.warmup=0 steps",
    "trial.init.path=null",
    "trial.monitors.every=null",
)
"""Settings that shrink any table to minutes on two cores, without its data: each row for two epochs of two steps.

They count in every row, so rows that differ in such a key, as in their labels, become one trial.
"""


def names() -> list[str]:
    """The names of all tables."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def path_of(name: str) -> Path:
    """The file of a table.

    Raises:
        UserError: there is no such table; the nearest name is given.
    """
    if name not in names():
        raise UserError(f"no table is named {shown_name(name)}{nearest(name, names())}")
    return FOLDER / f"{name}.yaml"


def described(name: str, settings: Iterable[str] = ()) -> SearchSpec:
    """The search of a table, whether its data are there or not.

    Raises:
        UserError: there is no such table, or a setting is at fault.
    """
    return reading.described(path_of(name), settings)


def tables() -> dict[str, SearchSpec]:
    """The searches of all tables, by their names."""
    return {name: described(name) for name in names()}


def header(name: str) -> list[str]:
    """What the file of a table says before its first key: commands, data, cost, and what is not as in the paper."""
    lines = path_of(name).read_text().splitlines()
    end = next(place for place, line in enumerate(lines) if not line.startswith("#"))
    return [line.removeprefix("#").removeprefix(" ") for line in lines[:end]]
