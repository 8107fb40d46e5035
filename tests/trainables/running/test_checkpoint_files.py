"""The files of a trial's folder: which are kept, what is pinned, and who may write."""

import os
from pathlib import Path

import pytest
import torch

from trainables.running import checkpoint
from trainables.running import checkpoint_files as files
from trainables.running.checkpoint_files import Disowned, Name


def write(folder: Path, step: int, *, timed: bool = False, keep: int = 2, owner: str = "") -> Path:
    return checkpoint.write(folder, step, {"x": torch.ones(2)}, {"learner": {"step": step}}, keep, timed, owner)


def steps(folder: Path) -> list[str]:
    """The checkpoints that are there, such as "5" and "7 timed"."""
    names = [Name.of(path) for path in sorted(folder.glob(checkpoint.PATTERN))]
    return [f"{name.step}{' timed' if name.timed else ''}" for name in names if name is not None]


def test_names():
    for name, text in (
        (Name(12), "step-0000000012.safetensors"),
        (Name(12, True), "step-0000000012.timed.safetensors"),
    ):
        assert str(name) == text and Name.of(Path("folder") / text) == name
    for other in ("step-12.other.safetensors", "step-.safetensors", ".step-0000000012.safetensors.7", "views.png"):
        assert Name.of(Path(other)) is None


def test_a_timed_checkpoint_stays_until_a_newer_one_is_there(tmp_path: Path):
    """Beside so many of epochs as are kept."""
    expected = {
        (10, False): ["10"],
        (12, True): ["10", "12 timed"],
        (15, True): ["10", "15 timed"],
        (20, False): ["10", "20"],
        (21, True): ["10", "20", "21 timed"],
        (30, False): ["20", "30"],
    }
    for (step, timed), left in expected.items():
        write(tmp_path, step, timed=timed)
        assert steps(tmp_path) == left
        found = checkpoint.newest(tmp_path)
        assert found is not None and found.name == Name(step, timed)


def test_older_checkpoints_than_a_damaged_newer_one_are_kept_by_their_own_count(tmp_path: Path):
    for step in (10, 20):
        write(tmp_path, step)
    write(tmp_path, 25, timed=True).write_bytes(b"damaged")
    assert steps(tmp_path) == ["10", "20", "25 timed"]
    write(tmp_path, 22, timed=True)
    assert steps(tmp_path) == ["10", "20", "22 timed", "25 timed"]
    write(tmp_path, 30)
    assert steps(tmp_path) == ["20", "30"]


@pytest.mark.parametrize("timed", [False, True])
def test_a_pinned_checkpoint_stays_until_its_last_holder_lets_it_go(tmp_path: Path, timed: bool):
    needed = write(tmp_path, 10, timed=timed)
    for holder in ("pause", "0007"):
        assert files.pin(needed, holder)
    for step in (20, 30, 40):
        write(tmp_path, step)
    assert needed.exists() and steps(tmp_path)[1:] == ["30", "40"]
    files.unpin(needed, "pause")
    write(tmp_path, 50)
    assert needed.exists()
    files.unpin(needed, "0007")
    write(tmp_path, 60)
    assert steps(tmp_path) == ["50", "60"]


def test_a_pin_on_what_is_gone_says_so_and_leaves_nothing(tmp_path: Path):
    assert not files.pin(tmp_path / str(Name(3)), "pause")
    assert list(tmp_path.iterdir()) == []


def test_only_the_newest_owner_writes(tmp_path: Path):
    files.take(tmp_path, "first")
    write(tmp_path, 1, owner="first")
    files.take(tmp_path, "second")
    with pytest.raises(Disowned, match="was taken by second; first must not write there any more"):
        write(tmp_path, 2, owner="first")
    assert steps(tmp_path) == ["1"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".owner", str(Name(1))]
    write(tmp_path, 2, owner="second")
    write(tmp_path, 3)  # without a token nothing is checked
    (tmp_path / ".owner").unlink()
    with pytest.raises(Disowned, match="was taken by nobody"):
        write(tmp_path, 4, owner="second")


def test_a_folder_that_is_taken_while_its_earlier_owner_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Right after the look at the owner: the unfinished file is gone, so it is never made visible."""
    files.take(tmp_path, "first")
    look = files.require_owner

    def and_then_it_is_taken(folder: Path, owner: str) -> None:
        look(folder, owner)
        files.take(folder, "second")

    monkeypatch.setattr(files, "require_owner", and_then_it_is_taken)
    with pytest.raises(Disowned):
        write(tmp_path, 1, owner="first")
    assert [path.name for path in tmp_path.iterdir()] == [".owner"]
    assert (tmp_path / ".owner").read_text() == "second"


def test_who_takes_a_folder_deletes_what_others_left_unfinished(tmp_path: Path):
    path = write(tmp_path, 1)
    names = (
        ".step-0000000002.safetensors.4711",
        ".step-0000000003.timed.safetensors.9",
        ".owner.12",
        ".probe.4711",
        ".views.png.8",
    )
    for name in (*names, "rank-0.log"):
        (tmp_path / name).touch()
    files.take(tmp_path, "")
    assert len(list(tmp_path.iterdir())) == 7
    files.take(tmp_path, "me")
    assert sorted(file.name for file in tmp_path.iterdir()) == [".owner", "rank-0.log", path.name]


def test_a_timed_writer_that_was_killed_leaves_nothing_for_long(tmp_path: Path):
    abandoned = tmp_path / ".step-0000000002.timed.safetensors.4711"
    abandoned.touch()
    os.utime(abandoned, (0, 0))
    write(tmp_path, 3)
    assert not abandoned.exists()
