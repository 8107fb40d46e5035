"""Which errors are of a trial's surroundings, and are told to nobody as its own."""

import errno
import os
from pathlib import Path

import pytest
from safetensors import SafetensorError, safe_open

from trainables.config.errors import TrialFailure, UserError
from trainables.running import checkpoint, checkpoint_files, surroundings

FOLDER = Path("/run/trials/0003")


@pytest.mark.parametrize(
    "name",
    ["ENOSPC", "EDQUOT", "EROFS", "EIO", "ESTALE", "ENOTCONN", "ENODEV", "EHOSTDOWN", "ENETUNREACH", "ETIMEDOUT"],
)
def test_what_is_the_machines(name: str) -> None:
    number = getattr(errno, name)
    said = surroundings.fault(OSError(number, os.strerror(number), "/data/train.parquet"), FOLDER)
    assert said is not None
    assert said.startswith(f"/data/train.parquet: {os.strerror(number)}; ")
    assert said.endswith("make room there" if name in ("ENOSPC", "EDQUOT") else "mend that")
    assert surroundings.fault(OSError(number, os.strerror(number)), FOLDER) == said.replace(
        "/data/train.parquet", str(FOLDER)
    )


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file or directory", "/data/train.parquet"),
        PermissionError(errno.EACCES, "Permission denied", "/data"),
        IsADirectoryError(errno.EISDIR, "Is a directory", "/data"),
        OSError("cannot identify image file"),
        TimeoutError("gloo timed out"),
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        ValueError("No space left on device (os error 28)"),
        TrialFailure("the loss is nan in epoch 1: the trial diverged"),
        SafetensorError("Error while deserializing header: header too large"),
    ],
)
def test_what_is_the_trials_or_the_users(error: Exception) -> None:
    assert surroundings.fault(error, FOLDER) is None


def test_an_error_that_another_was_raised_in_place_of() -> None:
    def read() -> None:
        try:
            raise OSError(errno.EIO, "Input/output error", "/data/1.png")
        except OSError:
            raise UserError("data.root: cannot be read") from None

    with pytest.raises(UserError) as error:
        read()
    assert surroundings.fault(error.value, FOLDER) == "/data/1.png: Input/output error; mend that"


def test_real_errors_of_a_full_disc() -> None:
    with pytest.raises(OSError, match="No space left") as error, Path("/dev/full").open("w") as full:
        full.write("x")
        full.flush()
    assert surroundings.fault(error.value, FOLDER) == f"{FOLDER}: No space left on device; make room there"


def test_safetensors_own_errors(tmp_path: Path) -> None:
    said = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert surroundings.fault(said, FOLDER) == f"{FOLDER}: No space left on device; make room there"
    (tmp_path / "cut").write_bytes(b"\0" * 7)
    with pytest.raises(SafetensorError) as error, safe_open(tmp_path / "cut", framework="pt"):
        pass
    assert surroundings.fault(error.value, FOLDER) is None


def test_a_folder_with_room(tmp_path: Path) -> None:
    surroundings.require_room(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "step-0000000001.safetensors").write_bytes(b"x" * 10)
    surroundings.require_room(tmp_path)
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["step-0000000001.safetensors"]


def test_a_checkpoint_that_cannot_be_made_visible_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint_files, "_flush", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.write(tmp_path, 1, {}, {}, keep=1)
    assert list(tmp_path.iterdir()) == []
