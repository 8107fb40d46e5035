"""A disc that fills up: no trial fails by it; the search waits, goes on by itself, or is resumed.

The disc is a tmpfs of 8 MB, mounted as root.
"""

import os
import signal
from pathlib import Path

import pytest
from safetensors import SafetensorError

from tests.timeless import timeless_history, timeless_trials
from tests.tuner.conftest import SMALL, Tuner
from tests.tuner.fleet.test_kill import checkpoints, wait_for
from trainables.config import trial as c
from trainables.config.errors import BrokenOff
from trainables.running import checkpoint
from trainables.running.fit import fit
from trainables.running.messages import Going, Metrics
from trainables.running.surroundings import fault
from tuner.plan import space as spaces
from tuner.plan import spec
from tuner.runs import run as runs
from tuner.search.study import Study

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]
TRIAL = {**SMALL["trial"], "train": {**SMALL["trial"]["train"], "epochs": 6}}


def fill(disc: Path, leave: int = 0) -> Path:
    """A file that takes what a disc has left, but for some bytes."""
    room = os.statvfs(disc)
    ballast = disc / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_bsize - leave)
    return ballast


def test_a_journal_that_cannot_be_written_stays_whole(disc: Path) -> None:
    wanted = spec.parse({"trials": 5})
    study = Study(disc / "journal.log", wanted, spaces.load("teacher"))
    study.ask()
    ballast = fill(disc)
    before = (disc / "journal.log").read_bytes()
    with pytest.raises(BrokenOff, match=r"journal.log: cannot be written \(No space left on device\)"):
        for epoch in range(1000):  # the last block has room for some lines
            before = (disc / "journal.log").read_bytes()
            study.observe("0000", {"epoch": epoch, "knn_top1": 0.5})
    assert (disc / "journal.log").read_bytes() == before
    ballast.unlink()
    again = Study(disc / "journal.log", wanted, spaces.load("teacher"))
    assert [trial.number for trial in again.trials()] == [0]
    assert again.ask() is not None


def test_what_a_full_disc_leaves_of_a_file(disc: Path) -> None:
    path = disc / "spec.yaml"
    runs.write_atomically(path, "old")
    ballast = fill(disc)
    with pytest.raises(OSError, match="spec.yaml"):
        runs.write_atomically(path, "new" * 4096)
    assert path.read_text() == "old"
    assert sorted(disc.iterdir()) == sorted([path, ballast])


def test_commands_on_a_full_disc(disc: Path, tuner: Tuner) -> None:
    """Each says one line, and leaves nothing half-made."""
    run = runs.Run(
        runs.Run.create(disc / "run", "search", spec.parse({"trials": 2}).plain(), 0).path
    )  # no process holds it any more
    ballast = fill(disc)
    for arguments, status in (
        (["launch", tuner.write_search(), "--run", str(disc / "other")], 2),
        (["resume", str(run.path)], 3),
    ):
        driver = tuner.start(*arguments)
        _, err = driver.communicate(timeout=120)
        assert driver.returncode == status, err
        (line,) = err.splitlines()
        assert "No space left on device" in line
    assert sorted(disc.iterdir()) == sorted([run.path, ballast])
    assert not [path for path in run.path.iterdir() if path.name.startswith(".")]


def test_notes_of_a_run_need_no_more_room(disc: Path) -> None:
    run = runs.Run.create(disc / "run", "search", {}, 0)
    run.hold()
    fill(disc)
    for waits in ("waiting: for a very long time", "waiting", ""):
        run.note(waits)
        assert runs.Run(run.path).waits() == waits


def test_a_checkpoint_by_time_that_has_no_room_ends_the_segment_and_loses_nothing(disc: Path, tmp_path: Path) -> None:
    """It is written by a thread while the trial trains on."""
    config = c.parse(
        {**TRIAL, "train": {**TRIAL["train"], "epochs": 2, "checkpoint_steps": None, "checkpoint_minutes": 1e-6}}
    )
    undisturbed = fit(config, tmp_path / "quiet", lambda metrics: "on")
    ballast = Path()

    def fill_after_the_first(metrics: Metrics) -> Going:
        nonlocal ballast
        ballast = fill(disc, leave=64 * 2**10)
        return "on"

    with pytest.raises((OSError, SafetensorError)) as error:
        fit(config, disc / "trial", fill_after_the_first)
    assert "No space left on device; make room there" in str(fault(error.value, disc / "trial"))
    assert not list((disc / "trial").glob(".step-*")), "nothing half-written is left"
    newest = checkpoint.newest(disc / "trial")
    assert newest is not None
    assert len(newest.values["history"]) == 1
    ballast.unlink()
    again = fit(config, disc / "trial", lambda metrics: "on")
    assert timeless_history(again) == timeless_history(undisturbed)


@pytest.fixture(scope="module")
def search(tuner: Tuner) -> str:
    return tuner.write_search(
        trials=3, trial=TRIAL, stopping={"kind": "none"}, resources={"workers": 1, "concurrent_trials": 1}
    )


@pytest.fixture(scope="module")
def undisturbed(tuner: Tuner, search: str) -> list[dict]:
    tuner.run("launch", search, "--run", "undisturbed")
    return timeless_trials(tuner.state("undisturbed"))


@pytest.mark.ray
@pytest.mark.parametrize("goes_on", ["by itself", "by a resume"])
def test_a_search_on_a_disc_that_fills_up(
    tuner: Tuner, search: str, undisturbed: list[dict], disc: Path, goes_on: str
) -> None:
    run = disc / "run"
    printed = (tuner.folder / f"printed {goes_on}").open("w+")
    driver = tuner.start("launch", search, "--run", str(run), stdout=printed)
    wait_for(lambda: checkpoints(run, "0001") or driver.poll() is not None, "second trial")
    ballast = fill(disc, leave=64 * 2**10)
    said = wait_for(
        lambda: [line for line in Path(printed.name).read_text().splitlines() if "waiting" in line], "word of the wait"
    )
    assert "No space left on device; make room there" in said[0]
    assert str(run / "trials" / "0001") in said[0]
    assert "that is tried every 10 seconds" in said[0]
    assert said[0] in tuner.run("status", str(run))
    states = [row["state"] for row in tuner.state(str(run))["trials"]]
    assert states == ["complete", "running"]
    if goes_on == "by itself":
        ballast.unlink()
        _, err = driver.communicate(timeout=200)
        assert driver.returncode == 0, err
        assert "going on" in Path(printed.name).read_text()
    else:
        driver.send_signal(signal.SIGINT)
        driver.communicate(timeout=60)
        assert driver.returncode == 130
        ballast.unlink()
        tuner.run("resume", str(run))
    assert timeless_trials(tuner.state(str(run))) == undisturbed
    unfinished = [file for file in run.rglob("trials/*/.*") if file.name != ".owner"]
    assert not unfinished, "nothing half-written is left"
