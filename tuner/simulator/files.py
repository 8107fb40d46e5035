"""Curves in a Parquet file, and in the run directory of a search.

A file has a row for each epoch of each trial, in any order, and these columns:

values    text     the values that were proposed, as JSON: {"optim.lr": 0.1, ...}
params    text     the values that the space suggested, as JSON; null where not known. Only a search in a pool needs it
epoch     int64    from 1
metrics   text     the metrics of the epoch, as JSON
seconds   float64  duration of the epoch

A file does not say that a trial failed: the trial ends like one that was stopped.

The schema's metadata may hold what all trials have in common: "trial", the section of that name of their search as
JSON, and "format", the format in which that section was written (trainables/config/formats.py).
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from trainables.config import formats
from trainables.config.errors import UserError
from trainables.running import checkpoint_header
from tuner.runs.run import Run
from tuner.search.study import Study, key_of
from tuner.simulator.curves import Point, Recorded, Table, identity

COLUMNS = ("values", "params", "epoch", "metrics", "seconds")


def write(path: Path, points: Iterable[Point], trial: Mapping[str, object] | None = None) -> None:
    """Writes recorded trials as a Parquet file.

    Args:
        path: of the file.
        points: the trials.
        trial: what they have in common, as `Table.trial`; None where that is not known.
    """
    import pyarrow
    from pyarrow import parquet

    rows = [
        {
            "values": json.dumps(dict(point.values)),
            "params": None if point.params is None else json.dumps(dict(point.params)),
            "epoch": epoch,
            "metrics": json.dumps(dict(recorded.metrics)),
            "seconds": recorded.seconds,
        }
        for point in points
        for epoch, recorded in sorted(point.epochs.items())
    ]
    kinds = (pyarrow.string(), pyarrow.string(), pyarrow.int64(), pyarrow.string(), pyarrow.float64())
    common = None if trial is None else {"trial": json.dumps(trial), "format": str(formats.FORMAT)}
    schema = pyarrow.schema(list(zip(COLUMNS, kinds, strict=True)), metadata=common)
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), path)


def read(path: Path) -> Table:
    """Reads recorded trials from a Parquet file.

    Raises:
        UserError: the file is missing or damaged, lacks a column, or a row or the metadata do not hold what they
            should.
    """
    from pyarrow import ArrowException, parquet

    if not path.is_file():
        raise UserError(f"{path}: no such file of curves, and no run directory")
    try:
        table = parquet.read_table(path)
    except (ArrowException, OSError) as error:
        raise UserError(f"{path}: is no Parquet file that can be read ({str(error).splitlines()[0]})") from None
    if lacking := [name for name in COLUMNS if name not in table.column_names and name != "params"]:
        raise UserError(f"{path}: has no column '{lacking[0]}'; curves have the columns {', '.join(COLUMNS)}")
    trials: dict[str, tuple[dict[str, Any], dict[int, Recorded], dict[str, Any] | None]] = {}
    for number, row in enumerate(table.to_pylist()):
        try:
            values, metrics, params = (json.loads(row.get(name) or "null") for name in ("values", "metrics", "params"))
            epoch, seconds = int(row["epoch"]), float(row["seconds"])
            if not isinstance(values, dict) or not isinstance(metrics, dict) or epoch < 1 or not seconds >= 0:
                raise ValueError
        except (ValueError, TypeError):
            rule = "needs values and metrics as JSON objects, an epoch from 1, and seconds"
            raise UserError(f"{path}: row {number} {rule}") from None
        _, epochs, _ = trials.setdefault(identity(values), (values, {}, params))
        epochs[epoch] = Recorded({**metrics, "epoch": epoch}, seconds)
    return Table((Point(*trial) for trial in trials.values()), _common(path, table.schema.metadata or {}))


def _common(path: Path, metadata: Mapping[bytes, bytes]) -> dict[str, object] | None:
    """Returns what the trials of a file have in common; None where the file does not say so."""
    if (stored := metadata.get(b"trial")) is None:
        return None
    try:
        trial, written = json.loads(stored), int(metadata.get(b"format", b"1"))
    except ValueError:
        trial, written = None, 0
    if not isinstance(trial, dict):
        raise UserError(f"{path}: the metadata of its schema need 'trial' as a JSON object, and 'format' as a number")
    return formats.as_written(trial, written)


def of_run(run: Run, study: Study) -> Table:
    """Returns the curves of a run: its trials with the metrics in their newest checkpoints or in the journal.

    Args:
        run: the run of a search.
        study: its study.
    """
    return Table((_point(run, study, trial) for trial in study.trials()), run.spec.get("trial"))


def _point(run: Run, study: Study, trial: FrozenTrial) -> Point:
    """Returns a trial of a run. A checkpoint holds all metrics of each epoch, the journal holds the objective only."""
    metric = study.spec.objective.metric
    history = {
        int(entry["epoch"]): entry
        for entry in checkpoint_header.history_in(run.trial_folder(key_of(trial)))
        if entry["epoch"] >= 1
    }
    seconds = _seconds(trial, history)
    metrics: dict[int, dict[str, Any]] = {
        epoch: {**history.get(epoch, {}), metric: value, "epoch": epoch}
        for epoch, value in trial.intermediate_values.items()
    }
    last = trial.user_attrs.get("metrics") or {}
    if last.get("epoch", 0) >= 1:
        epoch = int(last["epoch"])
        metrics[epoch] = {**metrics.get(epoch, {}), **last, "epoch": epoch}
    epochs = {epoch: Recorded(metrics[epoch], seconds.get(epoch, 0.0)) for epoch in sorted(metrics)}
    values = trial.user_attrs["values"]
    every = values.get("evaluation.every_epochs", study.spec.trial.evaluation.every_epochs)
    return Point(values, epochs, trial.params, trial.user_attrs.get("error"), every)


def _seconds(trial: FrozenTrial, history: Mapping[int, Mapping[str, Any]]) -> dict[int, float]:
    """Returns the seconds of each epoch that was evaluated, without the time in which nobody trained the trial.

    A life of a trial is a stretch that one process group trained; all its epochs have the same time of its first step.
    An epoch takes from the measurement before it, or from the first step of its life, to its own measurement. An epoch
    that was resumed in its middle therefore counts with its second part only. Without these times the epochs share the
    trial's time in equal parts.
    """
    began, ended = trial.user_attrs.get("started_at"), trial.user_attrs.get("last_metric_at")
    known = sorted(trial.intermediate_values)
    entries = [history.get(epoch, {}) for epoch in known]
    lives = [entry.get("time/first_step_at", began) for entry in entries]
    times = [entry.get("time/measured_at") for entry in entries]
    if all(time is not None for time in (*lives, *times)):
        befores = [
            time if life == next_life else next_life
            for life, next_life, time in zip(lives, lives[1:], times, strict=False)
        ]
        spans = zip(known, [*lives[:1], *befores], times, strict=True)
        return {epoch: max(0.0, after - before) for epoch, before, after in spans}
    if ended is None or began is None:
        return {}
    return {epoch: max(0.0, ended - began) / len(known) for epoch in known}
