"""Checkpoints: what is written is what is read, and nothing else is ever read."""

import logging
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from trainables.config.errors import UserError
from trainables.running import checkpoint
from trainables.running import fit as train
from trainables.running.checkpoint import Damaged

VALUES = {
    "learner": {"step": 3, "loss_sums": [0.1 + 0.2, 1e-300]},
    "history": [{"loss": float("inf")}],
    "config": {"ä": [None, True, "x"]},
}


def tensors_of_every_type() -> dict[str, torch.Tensor]:
    floats = {str(t): torch.randn(3, 4).to(t) for t in (torch.float64, torch.float32, torch.bfloat16, torch.float16)}
    whole = {
        str(t): torch.arange(-5, 5).to(t) for t in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
    }
    shapes = {
        "bool": torch.tensor([True, False]),
        "scalar": torch.tensor(3.5, dtype=torch.float64),
        "counter": torch.tensor(7),
        "empty": torch.zeros(0, 4),
        "transposed": torch.randn(3, 5).T,
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "special": torch.tensor([float("nan"), float("inf"), -0.0]),
    }
    return {**floats, **whole, **shapes}


def small(step: int) -> dict[str, torch.Tensor]:
    return {"student.weight": torch.full((2, 3), float(step)), "teacher.history": torch.arange(4)}


def write(folder: Path, step: int, keep: int = 9) -> Path:
    return checkpoint.write(folder, step, small(step), {"learner": {"step": step}, "loss": 0.5}, keep)


def test_tensors_of_every_type_and_values_come_back(tmp_path: Path):
    tensors = tensors_of_every_type()
    path = checkpoint.write(tmp_path / "new" / "folder", 12, tensors, VALUES, keep=2)
    found = checkpoint.read(path)
    assert found.values == VALUES and found.path == path
    assert found.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found.tensors[name].dtype == tensor.dtype and found.tensors[name].shape == tensor.shape
        torch.testing.assert_close(found.tensors[name], tensor, rtol=0, atol=0, equal_nan=True)
        assert torch.equal(torch.signbit(found.tensors[name]), torch.signbit(tensor))


def test_only_the_newest_stay_and_no_temporary_file(tmp_path: Path):
    for step in (5, 10, 9, 100, 20):
        write(tmp_path, step, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-0000000010.safetensors",
        "step-0000000020.safetensors",
        "step-0000000100.safetensors",
    ]
    write(tmp_path, 101, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-0000000100.safetensors",
        "step-0000000101.safetensors",
    ]


def test_a_state_is_not_dropped_in_favour_of_a_damaged_newer_one(tmp_path: Path):
    """A trial that passed over a damaged file writes older steps again. Without these the next kill would lose all."""
    write(tmp_path, 100, keep=1).write_bytes(b"damaged")
    path = write(tmp_path, 60, keep=1)
    found = checkpoint.newest(tmp_path)
    assert found is not None and found.path == path


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path: Path):
    before = write(tmp_path, 1)
    with pytest.raises(TypeError):
        checkpoint.write(tmp_path, 2, small(2), {"function": print}, keep=1)
    assert list(tmp_path.iterdir()) == [before]


def test_a_writer_that_was_killed_leaves_nothing_that_counts_or_stays(tmp_path: Path):
    path = write(tmp_path, 1)
    abandoned, at_work = (tmp_path / f".step-0000000002.safetensors.{process}" for process in (4711, 4712))
    for file in (abandoned, at_work):
        file.write_bytes(path.read_bytes()[:100])
    os.utime(abandoned, (0, 0))
    found = checkpoint.newest(tmp_path)
    assert found is not None and found.path == path
    again = write(tmp_path, 2)
    assert sorted(tmp_path.iterdir()) == [at_work, path, again]


def test_a_file_is_safetensors_and_never_a_pickle(tmp_path: Path):
    content = write(tmp_path, 1).read_bytes()
    header = int.from_bytes(content[:8], "little")
    assert content[8:9] == b"{" and content[8 : 8 + header].rstrip().endswith(b"}")
    assert b"student.weight" in content[: 8 + header]


class Touch:
    """A pickle of it makes a file when it is loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_code_in_a_file_is_never_run(tmp_path: Path):
    pickled, saved = tmp_path / "step-0000000001.safetensors", tmp_path / "step-0000000002.safetensors"
    pickled.write_bytes(pickle.dumps(Touch(tmp_path / "ran")))
    torch.save(Touch(tmp_path / "ran"), saved)
    for path in (pickled, saved):
        with pytest.raises(Damaged):
            checkpoint.read(path)
    assert checkpoint.newest(tmp_path) is None
    assert not (tmp_path / "ran").exists()


def test_every_flipped_byte_is_found(tmp_path: Path):
    path = write(tmp_path, 1)
    content, original = path.read_bytes(), checkpoint.read(path)
    unseen = []
    for position in range(len(content)):
        for bit in (0x01, 0x80):
            path.write_bytes(content[:position] + bytes([content[position] ^ bit]) + content[position + 1 :])
            try:
                found = checkpoint.read(path)
            except Damaged:
                continue
            unseen.append((position, found.values == original.values))
    assert not unseen


def test_every_truncation_and_addition_is_found(tmp_path: Path):
    path = write(tmp_path, 1)
    content = path.read_bytes()
    for end in range(0, len(content), 7):
        path.write_bytes(content[:end])
        with pytest.raises(Damaged, match="step-0000000001"):
            checkpoint.read(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(Damaged):
        checkpoint.read(path)


def test_content_without_its_hash_is_found(tmp_path: Path):
    path = write(tmp_path, 1)
    tensors = load_file(path)
    save_file(tensors, path)
    with pytest.raises(Damaged, match="hash"):
        checkpoint.read(path)
    save_file(tensors, path, metadata={"values": "{}", "sha256": "0" * 64})
    with pytest.raises(Damaged, match="hash"):
        checkpoint.read(path)


def test_the_newest_valid_one_counts_and_damaged_ones_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    write(tmp_path, 10)
    good = write(tmp_path, 20)
    cut, flipped = write(tmp_path, 30), write(tmp_path, 40)
    cut.write_bytes(cut.read_bytes()[:-5])
    content = flipped.read_bytes()
    flipped.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with caplog.at_level(logging.WARNING):
        found = checkpoint.newest(tmp_path)
    assert found is not None and found.path == good and found.values["learner"]["step"] == 20
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 2 and str(flipped) in warnings[0] and str(cut) in warnings[1]


def sealed(folder: Path, step: int, text: str | None) -> Path:
    """A file whose hash fits, with any text, or none, in place of its values."""
    tensors = small(step)
    path = folder / f"step-{step:010d}.safetensors"
    metadata = {"sha256": checkpoint._digest(tensors, text or "")} | ({} if text is None else {"values": text})
    save_file(tensors, path, metadata=metadata)
    return path


def placed(folder: Path, kind: str, step: int) -> Path:
    """Something that is no checkpoint of a step, under its name."""
    path = folder / f"step-{step:010d}.safetensors"
    if kind == "folder":
        path.mkdir()
        (path / "file").touch()
    elif kind == "dangling link":
        path.symlink_to(folder / "nowhere")
    elif kind == "link to itself":
        path.symlink_to(path)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "unreadable":
        path.symlink_to("/proc/self/mem")  # a regular file that cannot be read
    elif kind == "renamed":
        checkpoint.write(folder / "other", 20, small(20), {"learner": {"step": 20}}, 1).rename(path)
    elif kind == "without a step":
        checkpoint.write(folder, step, small(step), {"history": []}, 9)
    else:
        sealed(folder, step, {"without values": None, "no JSON": "{", "no mapping": "[1]"}[kind])
    return path


ODD = (
    "folder",
    "dangling link",
    "link to itself",
    "pipe",
    "unreadable",
    "renamed",
    "without a step",
    "without values",
    "no JSON",
    "no mapping",
)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_checkpoint_is_passed_over_with_a_line_and_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
):
    """An intact older one counts; the trial goes on from there, and writes its own file in that place."""
    good, odd = write(tmp_path, 20), placed(tmp_path, kind, 30)
    with caplog.at_level(logging.WARNING):
        found = checkpoint.newest(tmp_path)
    assert found is not None and found.path == good
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"{odd}: ") and line.endswith("an older checkpoint is used")
    write(tmp_path, 30, keep=1)
    write(tmp_path, 40, keep=2)
    again = checkpoint.newest(tmp_path)
    assert again is not None and again.values["learner"]["step"] == 40
    assert sorted(path.name for path in tmp_path.glob("step-*.safetensors")) == [
        f"step-{step:010d}.safetensors" for step in (30, 40)
    ]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["folder", "dangling link", "pipe"])
def test_what_is_no_file_is_refused_where_it_is_named(tmp_path: Path, kind: str):
    with pytest.raises(UserError, match="is no file, so no checkpoint"):
        checkpoint.read(placed(tmp_path, kind, 30))


def test_a_trial_that_was_interrupted_goes_on_past_a_folder_in_the_place_of_its_next_checkpoint(tiny, tmp_path: Path):
    """As a backup program may leave one behind: nothing is lost of it, and the trial ends."""
    config = tiny({"train.checkpoint_steps": 2})
    placed(tmp_path, "folder", 2)
    train.fit(config, tmp_path, lambda metrics: "on")
    found = checkpoint.newest(tmp_path)
    assert found is not None and found.values["learner"]["step"] == 8
    (moved,) = tmp_path.glob("step-0000000002.safetensors.folder-*")
    assert (moved / "file").exists()


def test_no_checkpoint(tmp_path: Path):
    assert checkpoint.newest(tmp_path / "nowhere") is None
    with pytest.raises(UserError, match="no such checkpoint"):
        checkpoint.read(tmp_path / "step-0000000001.safetensors")
