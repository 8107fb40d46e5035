"""kill -9 of what a search needs, while it runs: the driver ends with a line that says how to go on."""

import os
import signal
from pathlib import Path

import pytest

from tests.tuner.conftest import SMALL, Tuner
from tests.tuner.fleet.test_kill import checkpoints, trains, wait_for

pytestmark = [pytest.mark.long, pytest.mark.ray, pytest.mark.timeout(300)]
LONG = {**SMALL["trial"], "train": {**SMALL["trial"]["train"], "epochs": 100}}


def descendants(process: int) -> list[int]:
    """The processes that a process has started, itself included, and those that they have."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents.setdefault(parent, []).append(int(folder.name))
    found = [process]
    for one in found:
        found += parents.get(one, [])
    return found


def named(processes: list[int], name: str) -> int:
    """The one process whose command begins with a path or a title that ends with a name."""
    found = []
    for process in processes:
        try:
            command = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")[0].decode()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if command.split(" ")[0].split("/")[-1].split(".")[0] == name:
            found.append(process)
    assert len(found) == 1, f"{name}: {found}"
    return found[0]


def agent(process: int) -> bool:
    """Whether it is an agent of a raylet: for a minute and more it tries to tell a dead head of its dead raylet."""
    try:
        return (
            Path(f"/proc/{process}/cmdline").read_bytes().startswith((b"ray::DashboardAgent", b"ray::RuntimeEnvAgent"))
        )
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize(
    ("victim", "words"),
    [
        ("gcs_server", "Ray's head (its GCS at "),
        ("raylet", "Ray on this node (the raylet at "),
        ("ray::Switchboard", "the switchboard, the search's actor on the head, died"),
    ],
)
def test_what_a_search_needs_dies(tuner: Tuner, victim: str, words: str) -> None:
    run = tuner.folder / victim.strip("ray:")
    driver = tuner.start("launch", tuner.write_search(trial=LONG, trials=2), "--run", run.name)
    wait_for(lambda: checkpoints(run, "0000") or driver.poll() is not None, "checkpoint")
    started = descendants(driver.pid)
    os.kill(named(started, victim), signal.SIGKILL)
    _, err = driver.communicate(timeout=60)
    assert driver.returncode == 3, err
    (line,) = err.splitlines()
    assert line.startswith(f"error: {words}")
    assert line.endswith(f"resume {run.name}")
    states = [row["state"] for row in tuner.state(run.name)["trials"]]
    assert states == ["interrupted"], "nobody is to blame"
    wait_for(
        lambda: not any(trains(process) for process in started if not agent(process)),
        "end of the session's processes",
        60,
    )
