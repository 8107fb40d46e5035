"""The rows of the papers' tables as the papers have them, written down in rows/*.yaml, beside what our tables run.

A file has the values that all its rows share (`common`), each row's own (`rows`), and where the values of a key are
from (`sources`: a table, section or footnote of the paper, then printed, released code or inferred; a row may have its
own). A row that sets a key to null has none of the common values there. Values are written from the papers, never from
what our tables resolve to.
"""

import math
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import optuna
import yaml

import search_spaces
from trainables.config import trial as c
from trainables.config.data import facts
from trainables.config.sections import Schedule
from trainables.config.settings import flat
from trainables.config.teacher import PLACEMENTS
from trainables.running.resolve import resolved
from tuner.commands import arguments
from tuner.plan import points, reading
from tuner.plan.spec import SearchSpec

ROOM = Path(search_spaces.__file__).parent / "papers"
TABLES = sorted(path for path in ROOM.glob("*.yaml") if not path.stem.startswith("small_"))
ROWS = Path(__file__).parent / "rows"
HOW = ("printed", "released code", "inferred")
Values = dict[str, object]


def _placement(config: c.TrialConfig) -> object:
    placed = config.teacher.placement
    return next((name for name, parts in PLACEMENTS.items() if parts == placed), list(placed))


def _side(config: c.TrialConfig) -> object:
    shape: tuple[int, ...] | None = getattr(facts(config.data.name), "SHAPE", None)
    return config.data.image_size or (shape and shape[0])


def _classes(config: c.TrialConfig) -> int:
    return {"cifar10": 10, "cifar100": 100, "stl10": 10}.get(config.data.name, 1000)


def _of_method(key: str) -> Callable[[c.TrialConfig], object]:
    """Reads a key that only some methods have; of a schedule its base."""

    def read(trial: c.TrialConfig) -> object:
        value = getattr(trial.method, key, None)
        return value.base if isinstance(value, Schedule) else value

    return read


def _teacher_temperature(trial: c.TrialConfig) -> Schedule:
    """DINO's; of other methods a temperature that none has."""
    return getattr(trial.method, "teacher_temperature", Schedule(base=0))


FACTS: dict[str, Callable[[c.TrialConfig], object]] = {
    "method": lambda trial: trial.method.name,
    "encoder": lambda trial: trial.encoder.name,
    "width": lambda trial: trial.encoder.width,
    "stem": lambda trial: trial.encoder.stem,
    "projector": lambda trial: [trial.encoder.projector.hidden, trial.encoder.projector.out],
    "head.layers": lambda trial: trial.encoder.projector.layers,
    "head.norm": lambda trial: trial.encoder.projector.norm,
    "head.activation": lambda trial: trial.encoder.projector.activation,
    "bn1": lambda trial: trial.encoder.feature_norm != "none",
    "bn2": lambda trial: trial.encoder.output_norm,
    "data": lambda trial: trial.data.name,
    "train_split": lambda trial: trial.data.train_split,
    "batch": lambda trial: trial.train.batch_size,
    "shard": lambda trial: trial.train.shard_size,
    "epochs": lambda trial: trial.train.epochs,
    "optimiser": lambda trial: trial.optim.name,
    "lr": lambda trial: trial.optim.lr.base,
    "lr_schedule": lambda trial: trial.optim.lr.kind,
    "milestones": lambda trial: list(trial.optim.lr.milestones),
    "warmup": lambda trial: trial.optim.lr.warmup,
    "optim.warmup_factor": lambda trial: trial.optim.lr.warmup_factor,
    "optim.momentum": lambda trial: trial.optim.momentum,
    "lars.trust": lambda trial: trial.optim.trust,
    "lars.clip": lambda trial: trial.optim.clip,
    "lars.lr_in_buffer": lambda trial: trial.optim.lr_in_buffer,
    "nesterov": lambda trial: trial.optim.nesterov,
    "weight_decay": lambda trial: trial.optim.weight_decay.base,
    "momentum.kind": lambda trial: trial.teacher.momentum_of().kind,
    "momentum.base": lambda trial: trial.teacher.momentum_of().base,
    "momentum.final": lambda trial: trial.teacher.momentum_of().final,
    "update": lambda trial: trial.teacher.update,
    "placement": _placement,
    "student_norm": lambda trial: trial.encoder.norm.kind,
    "teacher_norm": lambda trial: trial.teacher.norm.kind,
    "warm_start": lambda trial: trial.teacher.norm.warm_start,
    "momentum_bn.variance": lambda trial: trial.teacher.norm.variance,
    "momentum_bn.history": lambda trial: trial.teacher.norm.history,
    "momentum_bn.lazy": lambda trial: trial.teacher.norm.lazy,
    "alpha.kind": lambda trial: trial.teacher.norm.alpha.kind,
    "alpha.base": lambda trial: trial.teacher.norm.alpha.base,
    "alpha.final": lambda trial: trial.teacher.norm.alpha.final,
    "smoothing.kind": lambda trial: trial.teacher.smoothing.kind,
    "smoothing.p": lambda trial: trial.teacher.smoothing.p.base,
    "smoothing.granularity": lambda trial: trial.teacher.smoothing.granularity,
    "crop_scale": lambda trial: list(trial.views.crop_scale),
    "crop_ratio": lambda trial: list(trial.views.crop_ratio),
    "shift": lambda trial: trial.views.shift,
    "flip": lambda trial: trial.views.flip,
    "jitter": lambda trial: trial.views.jitter,
    "colour": lambda trial: [getattr(trial.views, key) for key in ("brightness", "contrast", "saturation", "hue")],
    "gray": lambda trial: trial.views.gray,
    "blur": lambda trial: list(trial.views.blur),
    "solarise": lambda trial: list(trial.views.solarise),
    "randaugment": lambda trial: [trial.views.randaugment.ops, trial.views.randaugment.cutout],
    "crop_size": _side,
    "resize": lambda trial: trial.data.resize,
    "crops": lambda trial: trial.data.crops,
    "init": lambda trial: trial.init.path and [trial.init.path.name, trial.init.part, trial.init.network],
    "labels.per_class": lambda trial: trial.data.labels.per_class,
    "labels.apart": lambda trial: trial.data.labels.apart,
    "labels.share": lambda trial: trial.data.labels.share,
    "pseudo_labels": _of_method("pseudo_labels"),
    "images_per_label": _of_method("images_per_label"),
    "threshold": _of_method("threshold"),
    "unlabelled_weight": _of_method("weight"),
    "consistency": _of_method("consistency"),
    "rampup": _of_method("rampup"),
    "queue": _of_method("queue"),
    "temperature": _of_method("temperature"),
    "teacher_temperature": _of_method("teacher_temperature"),
    "student_views": _of_method("student_views"),
    "byol.predictor": _of_method("predictor_hidden"),
    "byol.convention": _of_method("convention"),
    "simsiam.predictor": _of_method("predictor_hidden"),
    "simsiam.constant": lambda trial: trial.optim.constant_predictor,
    "moco.symmetric": _of_method("symmetric"),
    "simclr.negatives": _of_method("negatives"),
    "dino.prototypes": lambda trial: trial.encoder.projector.prototypes,
    "dino.center": _of_method("center_momentum"),
    "dino.frozen": _of_method("frozen_prototypes"),
    "dino.warmup": lambda trial: _teacher_temperature(trial).warmup,
    "dino.warmup_from": lambda trial: _teacher_temperature(trial).base * _teacher_temperature(trial).warmup_factor,
    "probe": lambda trial: trial.online_probe.lr,
    "network": lambda trial: trial.evaluation.network,
    "scored.every_epochs": lambda trial: trial.evaluation.every_epochs,
    "scored.protocols": lambda trial: list(trial.evaluation.protocols),
    "scored.votes": lambda trial: trial.evaluation.knn.votes,
    "monitors.drift": lambda trial: "drift" in trial.monitors.names,
    "traces.monitors": lambda trial: list(trial.monitors.names),
    "traces.every": lambda trial: trial.monitors.every,
}
"""What can be pinned of a trial as it is run, beside `protocols` (after the run, by the header's commands), the metric
of the search (`scored.objective`), and the paper's numbers (`reported`).
"""


class Pinned(NamedTuple):
    """A value of a row as the paper has it, and where it is from: the place and one of HOW."""

    table: str
    row: str
    key: str
    value: object
    source: str


def pinned(stem: str) -> list[Pinned]:
    """All pinned values of a table, row by row."""
    content = yaml.safe_load((ROWS / f"{stem}.yaml").read_text())
    found = []
    for row, own in content["rows"].items():
        sources = content["sources"] | own.get("sources", {})
        for key, value in _merged(content.get("common", {}), own).items():
            found.append(Pinned(stem, row, key, value, _source(key, sources)))
    return found


def _merged(common: Mapping[str, object], own: Mapping[str, object]) -> Values:
    """A row's values by dotted key: its own above the common ones."""
    mine = flat({key: value for key, value in own.items() if key != "sources"})
    gone = [key for key, value in mine.items() if value is None]
    shared = {
        key: value for key, value in flat(common).items() if not any(f"{key}.".startswith(f"{none}.") for none in gone)
    }
    return {key: value for key, value in (shared | mine).items() if value is not None}


def _source(key: str, sources: Mapping[str, str]) -> str:
    """The source of a key: its own, or that of its section; "" where there is none."""
    return sources.get(key, sources.get(key.partition(".")[0], ""))


def ours(path: Path, settings: Iterable[str] = ()) -> dict[str, Values]:
    """What a table runs, by row and key, at the paper's size and without its data.

    Rows are proposed and resolved as in a search. `settings` change the file, as `--set` does.
    """
    spec = reading.described(path, settings)
    table, study, found = points.load(spec), optuna.create_study(), {}
    for at, row in enumerate(spec.table):
        study.enqueue_trial({"point": row, "seed": spec.trial.seed})
        _, config = table.propose(study.ask(), spec.trial)
        without_files = config.model_copy(update={"init": c.Init()})
        trial = resolved(without_files, _classes(config)).model_copy(update={"init": config.init})
        values: Values = {key: read(trial) for key, read in FACTS.items()}
        values["scored.objective"] = spec.objective.metric
        values["protocols"] = protocols(path, at)
        found[row] = values | {f"reported.{metric}": number for metric, number in reported(spec, row)}
    return found


def reported(spec: SearchSpec, row: str) -> Iterator[tuple[str, float]]:
    """The numbers that a table says its paper prints for a row."""
    for metric, rows in spec.paper.reported.items() if spec.paper else ():
        if row in rows:
            yield metric, rows[row]


def protocols(path: Path, at: int) -> list[str]:
    """How a header says that a row is scored: protocols with their options, such as "linear momentum2".

    Args:
        path: of the table.
        at: position of the row. A command whose checkpoint is that of another row is for that row and those behind it,
            up to the next such command of the same protocol.
    """
    by_protocol: dict[str, dict[int, list[str]]] = {}
    for words in commands(path.read_text().partition("\nname:")[0]):
        if words[0] != "evaluate":
            continue
        given = arguments.parser().parse_args(words)
        first = int(re.findall(r"/trials/(\d+)", " ".join(words))[0])
        for name in given.protocol:
            own = [setting.partition("=")[2] for setting in given.set if setting.startswith(f"evaluation.{name}.")]
            by_protocol.setdefault(name, {}).setdefault(first, []).append(" ".join([name, *own]))
    return sorted(
        scored
        for starts in by_protocol.values()
        if (begun := [start for start in starts if start <= at])
        for scored in starts[max(begun)]
    )


def commands(text: str) -> list[list[str]]:
    """The words of each `tuner` command in a text, less its name."""
    lines = re.sub(r"\\\n#? *", "", text).splitlines()
    stripped = [line.removeprefix("#").strip() for line in lines]
    return [shlex.split(line)[1:] for line in stripped if line.startswith("tuner ")]


def differences(values: list[Pinned], found: Mapping[str, Mapping[str, object]]) -> list[str]:
    """A line for each pinned value that our table does not run: file, row, key, ours and the paper's."""
    return [
        f"{value.table}: '{value.row}': {value.key}: ours {mine!r}, the paper's {value.value!r} ({value.source})"
        for value in values
        if not _same(mine := found.get(value.row, {}).get(value.key), value.value)
    ]


def _same(mine: object, papers: object) -> bool:
    if isinstance(papers, list) and isinstance(mine, list):
        return len(papers) == len(mine) and all(map(_same, mine, papers))
    if isinstance(papers, bool) or isinstance(mine, bool):
        return mine is papers
    if isinstance(papers, int | float) and isinstance(mine, int | float):
        return math.isclose(mine, papers, rel_tol=1e-9)
    return mine == papers
