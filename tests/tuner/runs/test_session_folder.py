"""What Ray writes in a session goes with it, also when its driver was killed."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tuner.runs.run import Run
from tuner.runs.session_folder import OLD, PREFIX, SessionFolder

SESSION = """
import time
from tuner.runs.session_folder import SessionFolder
folder = SessionFolder()
(folder.path / "tune").mkdir()
print(folder.path, flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def test_a_killed_session_is_cleared_by_the_next_and_a_living_one_is_not(temporary: Path) -> None:
    killed, living = (
        subprocess.Popen([sys.executable, "-c", SESSION], stdout=subprocess.PIPE, text=True) for _ in range(2)
    )
    try:
        assert killed.stdout is not None and living.stdout is not None
        left, used = (Path(process.stdout.readline().strip()) for process in (killed, living))
        killed.kill()
        killed.wait()
        (temporary / f"{PREFIX}of-an-earlier-version").mkdir()
        mine = SessionFolder()
        assert not left.exists()
        assert (used / "tune").is_dir()
        assert mine.path.is_dir()
        assert (temporary / f"{PREFIX}of-an-earlier-version").is_dir(), "its session may be beginning"
        mine.clear()
        assert not mine.path.exists()
    finally:
        living.kill()
        killed.kill()
        living.wait()


@pytest.mark.parametrize(("age", "stays"), [(OLD - 60, True), (OLD + 60, False)])
def test_what_ray_writes_after_the_end_of_a_session_is_removed_later(age: float, stays: bool) -> None:
    session = SessionFolder()
    session.clear()
    (session.path / "slot-1").mkdir(parents=True)
    (session.path / "slot-1" / ".validate_storage_marker").touch()
    os.utime(session.path, (time.time() - age,) * 2)
    SessionFolder().clear()
    assert session.path.exists() == stays


def test_a_run_clears_what_ray_wrote(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", "search", {}, 0)
    folder = run.ray_folder
    assert folder == run.ray_folder
    assert not folder.is_relative_to(run.path)
    (folder / "tune-1").mkdir()
    run.clear()
    assert not folder.exists()
    assert not list(tmp_path.glob(f"{PREFIX}*"))
