"""What Ray writes in a session goes with it, also when its driver was killed."""

import subprocess
import sys
from pathlib import Path

import pytest

from tuner.runs.run import Run
from tuner.runs.session_folder import PREFIX, SessionFolder

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
        assert (temporary / f"{PREFIX}of-an-earlier-version").is_dir(), "nothing says whether it is in use"
        mine.clear()
        assert not mine.path.exists()
    finally:
        living.kill()
        killed.kill()
        living.wait()


def test_a_run_clears_what_ray_wrote(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", "search", {}, 0)
    folder = run.ray_folder
    assert folder == run.ray_folder
    assert not folder.is_relative_to(run.path)
    (folder / "tune-1").mkdir()
    run.clear()
    assert not folder.exists()
    assert not list(tmp_path.glob(f"{PREFIX}*"))
