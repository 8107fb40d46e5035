"""Curves in a Parquet file, and in the run directory of a search.

The columns of a file, a row for each epoch of each trial, in any order of the rows:

values    text     the values that were proposed, as JSON: {"optim.lr": 0.1, ...}
params    text     what the space suggested, as JSON; null where it is not known. Only a search in a pool needs it
epoch     int64    from 1
metrics   text     the metrics of the epoch, as JSON
seconds   float64  that the epoch took

That a trial failed is not in a file: it ends like one that was stopped.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from trainables.config.errors import UserError
from trainables.running import checkpoint_header
from tuner.runs.run import Run
from tuner.search.study import Study, key_of
from tuner.simulator.curves import Point, Recorded, Table, identity

COLUMNS = ("values", "params", "epoch", "metrics", "seconds")


def write(path: Path, points: Iterable[Point]) -> None:
    """Writes recorded trials as a Parquet file."""
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
    schema = pyarrow.schema(list(zip(COLUMNS, kinds, strict=True)))
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), path)


def read(path: Path) -> Table:
    """Reads recorded trials from a Parquet file.

    Raises:
        UserError: the file is missing or damaged, lacks a column, or a row does not hold what it should.
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
    return Table(Point(*trial) for trial in trials.values())


def of_run(run: Run, study: Study) -> Table:
    """The curves of a run: its trials with what their newest checkpoints or the journal hold.

    Args:
        run: of a search.
        study: of the run.
    """
    return Table(_point(run, study, trial) for trial in study.trials())


def _point(run: Run, study: Study, trial: FrozenTrial) -> Point:
    """A trial of a run. A checkpoint holds all metrics of its epochs; the journal holds the objective of each."""
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
    return Point(trial.user_attrs["values"], epochs, trial.params, trial.user_attrs.get("error"))


def _seconds(trial: FrozenTrial, history: Mapping[int, Mapping[str, Any]]) -> dict[int, float]:
    """Seconds of each epoch: from one measurement to the next; without them equal parts of the trial's time."""
    began = trial.user_attrs.get("started_at")
    measured = {epoch: entry.get("time/measured_at") for epoch, entry in sorted(history.items())}
    known = sorted(trial.intermediate_values)
    if began is not None and known and all(measured.get(epoch) is not None for epoch in known):
        times = [began, *(measured[epoch] for epoch in known)]
        return {epoch: max(0.0, after - before) for epoch, before, after in zip(known, times, times[1:], strict=False)}
    ended = trial.user_attrs.get("last_metric_at")
    if ended is None or began is None or not known:
        return {}
    return {epoch: max(0.0, ended - began) / len(known) for epoch in known}
