"""kill -9 of a worker during a trial, and of the driver during a search: nothing may be lost or told twice."""

import os
import re
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.timeless import timeless_trials
from tests.tuner.boards import HParams, curves, run_of
from tests.tuner.conftest import SMALL, Tuner

pytestmark = [pytest.mark.long, pytest.mark.ray, pytest.mark.timeout(600)]
EPOCHS = 6


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 240) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"in {seconds} s: no {what}")


def worker_of(run: Path, key: str, rank: int, attempt: int = 1) -> int | None:
    """The process of a trial's worker, from its log."""
    log = run / "trials" / key / f"rank-{rank}.log"
    found = re.findall(rf"attempt {attempt}, .* process (\d+)", log.read_text()) if log.exists() else []
    return int(found[-1]) if found else None


def checkpoints(run: Path, key: str) -> list[Path]:
    return sorted((run / "trials" / key).glob("step-*.safetensors"))


def trains(process: int) -> bool:
    """Whether it lives; a zombie that nobody has waited for does not."""
    try:
        return " Z " not in Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):  # the latter where it goes between opening and reading
        return False


# one known point, so that most proposals are the sampler's
SPACE = """
from search_spaces import teacher

KNOWN_GOOD = teacher.KNOWN_GOOD[1:2]
suggest = teacher.suggest
"""


@pytest.fixture(scope="module")
def search(tuner: Tuner) -> str:
    (tuner.folder / "my_space.py").write_text(SPACE)
    return tuner.write_search(
        trials=5, space="my_space.py", trial={**SMALL["trial"], "train": {**SMALL["trial"]["train"], "epochs": EPOCHS}}
    )


@pytest.fixture(scope="module")
def untouched(tuner: Tuner, search: str) -> dict[str, Any]:
    tuner.run("launch", search, "--run", "untouched")
    return tuner.state("untouched")


def test_a_search_that_loses_a_worker_and_its_driver_ends_as_one_that_was_left_alone(
    tuner: Tuner, search: str, untouched: dict[str, Any]
) -> None:
    run = tuner.folder / "killed"
    driver = tuner.start("launch", search, "--run", "killed")
    wait_for(lambda: len(checkpoints(run, "0000")) >= 2, "checkpoint of the first trial")
    worker = wait_for(lambda: worker_of(run, "0000", 1), "worker of the first trial")
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: worker_of(run, "0000", 1, attempt=2), "second attempt of the first trial")
    early = wait_for(lambda: _scores(run, "0000"), "score in TensorBoard")
    assert len(early) < EPOCHS, "nothing waits for the end of a trial to be written"
    wait_for(lambda: checkpoints(run, "0001"), "checkpoint of the second trial")
    workers = [worker_of(run, "0001", rank) for rank in (0, 1)]
    driver.kill()
    driver.wait()
    assert driver.returncode == -signal.SIGKILL
    wait_for(lambda: not any(trains(pid) for pid in workers), "end of the orphans", 60)
    assert _scores(run, "0000")[: len(early)] == early
    killed = HParams(run / "tensorboard")
    assert [name.split()[0] for name in killed.rows] == ["0000", "0001"] and "smoothing" in killed.columns
    assert [row["status"] for row in killed.rows.values()] == ["success", "unknown"]
    folders = sorted(path.name for path in (run / "tensorboard").iterdir())
    before = tuner.state("killed")
    assert [row["state"] for row in before["trials"]][:2] == [untouched["trials"][0]["state"], "interrupted"]

    tuner.run("resume", "killed")
    after = tuner.state("killed")
    assert timeless_trials(after) == timeless_trials(untouched)
    assert after["untrained"] == untouched["untrained"]
    log = (run / "trials" / "0001" / "rank-0.log").read_text()
    assert "continued from" in log, "the interrupted trial went on from its checkpoint"
    for row in after["trials"]:
        assert _scores(run, row["key"]) == pytest.approx(list(row["curve"].values()))
    board, alone = HParams(run / "tensorboard"), HParams(tuner.folder / "untouched" / "tensorboard")
    assert board.columns == alone.columns == killed.columns and board.rows == alone.rows
    assert sorted(path.name for path in (run / "tensorboard").iterdir())[:2] == folders[:2], "folders stay"
    for key in ("0000", "0001"):
        one, other = (curves(run_of(tuner.folder / name / "tensorboard", key)) for name in ("killed", "untouched"))
        assert one["train/loss"] == other["train/loss"], "also within the epoch in which it was killed"


def _scores(run: Path, key: str) -> list[float]:
    """What TensorBoard has of a trial's score until now."""
    folders = list((run / "tensorboard").glob(f"{key} *"))
    return [value for _, value in curves(folders[0]).get("score/knn_top1", [])] if folders else []


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_a_driver_that_is_asked_to_end_says_how_to_go_on(tuner: Tuner, search: str, sign: signal.Signals) -> None:
    run = tuner.folder / sign.name
    driver = tuner.start("launch", search, "--run", sign.name)
    wait_for(lambda: checkpoints(run, "0000"), "checkpoint")
    workers = [worker_of(run, "0000", rank) for rank in (0, 1)]
    driver.send_signal(sign)
    _, err = driver.communicate(timeout=60)
    assert driver.returncode == 130, err
    said, _, command = err.rstrip("\n").partition(": ")
    program, *arguments = shlex.split(command)
    assert said == "interrupted; continue with" and arguments == ["resume", sign.name]
    assert shutil.which(program) == str(Path(sys.executable).with_name("tuner"))
    wait_for(lambda: not any(trains(pid) for pid in workers), "end of the orphans", 60)
