"""The file of a trial's traces: it has every row of the newest checkpoint, whatever interrupted the trial."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.trainables.running.test_fit_resume import Killed, go_on, kill_at
from trainables.config import formats
from trainables.config import trial as c
from trainables.config.errors import UserError
from trainables.learning.traces import traces_in
from trainables.running import checkpoint, traces
from trainables.running import fit as train
from trainables.running.checkpoint_files import TRACES, Disowned


@pytest.fixture
def traced(tiny):
    def make(every: str | None = "2 steps", **values: object) -> c.TrialConfig:
        monitors = {"names": ["gradients", "filters"], "every": every}
        return tiny({"encoder.projector.hidden": 2, "data.train_images": 48, "monitors": monitors, **values})

    return make


def same(one: traces.Rows, other: traces.Rows) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def in_checkpoint(folder: Path) -> traces.Rows:
    found = checkpoint.newest(folder)
    assert found is not None
    return {name: rows.numpy() for name, rows in traces_in(found.tensors).items()}


def test_users_read_it_with_numpy_and_it_is_what_the_checkpoint_holds(traced, tmp_path: Path):
    history = train.fit(traced(), tmp_path, go_on)
    rows = load_file(tmp_path / "traces.safetensors")
    assert rows["steps"].tolist() == [2, 4, 6] and rows["filter/teacher"].shape == (3, 16, 2)
    assert rows["gradient/block1"].shape == (3,) and rows["gradient/block1"].dtype == np.float32
    assert same(rows, in_checkpoint(tmp_path)) and same(rows, traces.read(tmp_path))
    last = history[-1]
    assert rows["gradient/fc2"][-1] == np.float32(last["monitor/gradient/fc2"])
    assert rows["filter/student"][-1, 3, 0] == np.float32(last["monitor/filter/student/3/x"])
    sizes = {name: values[0].nbytes for name, values in rows.items()}
    assert sum(sizes.values()) == 292, "bytes of a row, as the module and README.md say"
    assert not list(tmp_path.glob(".*traces*"))


def test_a_killed_trial_has_the_rows_of_one_that_was_left_alone(traced, tmp_path: Path):
    """Killed before the first row, between two rows, and between the file of traces and its checkpoint."""
    config = traced("1 steps", **{"train.checkpoint_steps": 2})
    train.fit(config, tmp_path / "whole", go_on)
    whole, killed = traces.read(tmp_path / "whole"), tmp_path / "killed"
    for step in (0, 3):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            kill_at(step, patch)
            train.fit(config, killed, go_on)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        write = checkpoint.write

        def dies(folder: Path, step: int, *rest: object, **more: object) -> Path:
            if step == 4:
                raise Killed
            return write(folder, step, *rest, **more)  # type: ignore[arg-type]

        patch.setattr(checkpoint, "write", dies)
        train.fit(config, killed, go_on)
    assert traces.read(killed)["steps"].tolist() == [1, 2, 3, 4], "it is ahead of the checkpoint"
    assert in_checkpoint(killed)["steps"].tolist() == [1, 2, 3]
    train.fit(config, killed, go_on)
    assert same(traces.read(killed), whole) and whole["steps"].tolist() == [1, 2, 3, 4, 5, 6]


def test_a_lost_file_comes_back_with_the_next_checkpoint(traced, tmp_path: Path):
    config = traced()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill_at(4, patch)
        train.fit(config, tmp_path, go_on)
    (tmp_path / TRACES).write_bytes(b"damaged")
    with pytest.raises(UserError, match=rf"{TRACES}: cannot be read"):
        traces.read(tmp_path)
    train.fit(config, tmp_path, go_on)
    assert traces.read(tmp_path)["steps"].tolist() == [2, 4, 6]


def test_a_trial_that_is_not_traced_has_no_file(traced, tmp_path: Path):
    train.fit(traced(None, **{"train.epochs": 1}), tmp_path, go_on)
    assert not (tmp_path / TRACES).exists()
    with pytest.raises(UserError, match=r"has no traces.safetensors; a trial is traced with monitors.every"):
        traces.read(tmp_path)
    traces.write(tmp_path, {"other": np.zeros(2)})
    with pytest.raises(UserError, match="holds no traces of a trial"):
        traces.read(tmp_path)


GRADIENTS = np.ones(2, "f4")
PLANE = np.zeros((2, 16, 2), "f4")


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ({"gradient/fc2": GRADIENTS}, "it has no 'steps'"),
        ({"steps": np.zeros(0, "i8"), "gradient/fc2": np.zeros(0, "f4")}, r"'steps' is int64 \[0\], and must be whole"),
        ({"steps": np.array(3)}, r"'steps' is int64 \[\], and must be whole"),
        ({"steps": np.array([1.0, 2.0])}, r"'steps' is float64 \[2\], and must be whole"),
        ({"steps": np.array([2, 2])}, "'steps' does not grow from row to row"),
        ({"gradient/fc2": np.ones(3, "f4")}, r"gradient/fc2 is float32 \[3\], and must have 2 rows, as 'steps' has"),
        ({"gradient/fc2": np.ones((), "f4")}, r"gradient/fc2 is float32 \[\], and must have 2 rows"),
        ({"gradient/fc2": PLANE}, r"gradient/fc2 is float32 \[2, 16, 2\], and must have a number in each row"),
        ({"filter/student": GRADIENTS, "filter/teacher": PLANE}, r"filter/student is float32 \[2\], and must have poi"),
        ({"filter/student": PLANE[..., :1], "filter/teacher": PLANE}, r"\[2, 16, 1\], and must have points of two num"),
        ({"filter/student": PLANE}, "it has filter/student without filter/teacher"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "+".join(value),
)
def test_a_file_with_another_content_is_refused(tmp_path: Path, rows: traces.Rows, fault: str):
    given = rows if "steps" in rows or "no 'steps'" in fault else {"steps": np.array([1, 2]), **rows}
    traces.write(tmp_path, given)
    with pytest.raises(UserError, match=f"^{tmp_path / TRACES}: holds no traces of a trial: .*{fault}"):
        traces.read(tmp_path)


def test_traces_of_a_monitor_of_ones_own_have_any_shape(tmp_path: Path):
    made = {"steps": np.array([1, 2]), "mine": np.zeros((2, 3, 4), "f4")}
    traces.write(tmp_path, made)
    assert same(traces.read(tmp_path), made)


def test_another_segment_that_has_the_folder_keeps_its_file(tmp_path: Path):
    (tmp_path / ".owner").write_text("second")
    traces.write(tmp_path, {"steps": np.array([1])}, "second")
    with pytest.raises(Disowned):
        traces.write(tmp_path, {"steps": np.array([1, 2])}, "first")
    assert traces.read(tmp_path)["steps"].tolist() == [1]


def test_a_trial_of_an_earlier_version_goes_on_untraced(traced, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its checkpoint has the monitors as a list. It is not traced from its middle on: there would be a gap."""
    untraced = traced(None)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        plain = c.TrialConfig.plain
        patch.setattr(c.TrialConfig, "plain", lambda self: {**plain(self), "monitors": ["gradients", "filters"]})
        kill_at(4, patch)
        train.fit(untraced, tmp_path, go_on)
    found = checkpoint.newest(tmp_path)
    assert found is not None and found.values["config"]["monitors"] == ["gradients", "filters"]
    assert c.parse(found.config) == untraced
    with pytest.raises(UserError, match=r"monitors.every = 2 steps: the checkpoints in .* are of a trial with None"):
        train.fit(traced("2 steps"), tmp_path, go_on)
    with pytest.raises(UserError, match=r"monitors.names = \['gradients'\]"):
        train.fit(traced(None, **{"monitors.names": ["gradients"]}), tmp_path, go_on)
    assert len(train.fit(untraced, tmp_path, go_on)) == 2


@pytest.mark.parametrize("written", [1, 2])
def test_monitors_of_every_format_that_were_a_list(written: int):
    read = formats.as_written({"monitors": ["drift", "distance"]}, written)
    assert read == {"monitors": {"names": ["drift", "distance"], "every": None}}
    assert formats.as_written(read, written) == read
