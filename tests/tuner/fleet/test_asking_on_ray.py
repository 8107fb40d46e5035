"""A search that runs on Ray is paused, changed and stopped by commands in other processes."""

import time
from pathlib import Path
from typing import Any

import pytest

from tests.tuner.conftest import SMALL, Tuner
from tests.tuner.fleet.test_kill import wait_for
from trainables.config.settings import read_yaml
from tuner.runs.run import Run
from tuner.runs.storage_watch import measured

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(900)]
EPOCHS = 400  # none is trained to its end


def trials(tuner: Tuner) -> dict[str, dict[str, Any]]:
    return {trial["key"]: trial for trial in tuner.state("run")["trials"]}


def trained(tuner: Tuner) -> set[str]:
    """Keys of the trials that slots train now."""
    return {slot["trial"] for slot in tuner.state("run")["slots"] if slot["trial"]}


def test_a_search_is_paused_changed_and_stopped(tuner: Tuner) -> None:
    train = {**SMALL["trial"]["train"], "epochs": EPOCHS, "checkpoint_steps": None}
    search = tuner.write_search(
        trials=3,
        trial={**SMALL["trial"], "train": train},
        stopping={"kind": "none"},
        resources={"workers": 1, "max_slots": 1},
    )
    printed = (tuner.folder / "printed").open("w+")
    driver = tuner.start("launch", search, "--run", "run", stdout=printed, in_background=True)
    run = tuner.folder / "run"
    wait_for(lambda: driver.poll() is not None or (run / "lock").exists(), "run", 120)
    wait_for(lambda: driver.poll() is not None or trials(tuner).get("0000", {}).get("workers"), "first trial", 500)

    assert "trial 0000 pauses after its present epoch" in tuner.run("pause", "run", "--trial", "0")
    wait_for(lambda: trials(tuner)["0000"]["state"] == "paused", "pause of a trial")
    epoch = trials(tuner)["0000"]["epoch"]
    assert 0 < epoch < EPOCHS
    wait_for(lambda: {"0001", "0002"} & trained(tuner), "work on other trials")

    assert len(tuner.state("run")["slots"]) == 1
    tuner.run("set", "run", "resources.max_slots=none")
    wait_for(lambda: len(tuner.state("run")["slots"]) == 2, "two slots")
    tuner.run("set", "run", "resources.max_slots=1", "storage.limit=2 GB")
    assert read_yaml(run / "spec.yaml")["storage"] == {"limit": "2 GB"}
    wait_for(lambda: len(tuner.state("run")["slots"]) == 1, "one slot")

    assert "paused; continue with: " in tuner.run("pause", "run")
    _, err = driver.communicate(timeout=60)
    assert driver.returncode == 130, err
    assert err.startswith("paused as asked; continue with: ")
    assert "paused as asked: trials make a checkpoint" in Path(printed.name).read_text()
    assert "no driver runs it now" in refused(tuner, "pause", "run")
    before = {key: trial["epoch"] for key, trial in trials(tuner).items()}

    driver = tuner.start("resume", "run", stdout=printed)
    wait_for(lambda: driver.poll() is not None or trained(tuner), "resume", 500)
    tuner.run("pause", "run", "--trial", "0", "--off")
    tuner.run("stop", "run", "--trial", "1")
    wait_for(lambda: trials(tuner)["0001"]["state"] in ("stopped", "failed"), "stop of a trial")
    assert "--trial 1: has ended already" in refused(tuner, "stop", "run", "--trial", "1")
    assert "the search has ended" in tuner.run("stop", "run")
    _, err = driver.communicate(timeout=60)
    assert driver.returncode in (0, 1), err
    ended = trials(tuner)
    assert {trial["state"] for trial in ended.values()} <= {"stopped", "failed"}, "none is complete, none runs"
    assert all(ended[key]["epoch"] >= epoch for key, epoch in before.items())
    assert not list((run / "requests").iterdir())
    assert tuner.state("run")["utilisation"] > 0


def refused(tuner: Tuner, *arguments: str) -> str:
    """The line by which a command refuses."""
    process = tuner.start(*arguments)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2, err
    (line,) = err.splitlines()
    return line


def test_a_search_keeps_its_storage_limit_and_waits_where_it_cannot(tuner: Tuner) -> None:
    """A trial keeps two checkpoints of 0.3 MB; three best trials, one that runs and the rest make up 4 MB."""
    train = {**SMALL["trial"]["train"], "epochs": 4, "checkpoint_steps": None}
    changes: dict[str, Any] = {
        "trials": 7,
        "trial": {**SMALL["trial"], "train": train},
        "stopping": {"kind": "none"},
        "resources": {"workers": 1, "concurrent_trials": 1},
    }
    search = tuner.write_search(**changes, storage={"limit": "1.5 MB"})
    printed = (tuner.folder / "printed limited").open("w+")
    driver = tuner.start("launch", search, "--run", "limited", stdout=printed)
    run = tuner.folder / "limited"
    wait_for(lambda: driver.poll() is None and "waiting: " in Path(printed.name).read_text(), "word of the wait", 400)
    said = tuner.state("limited")["waits"]
    assert said.startswith("storage.limit = 1.5 MB: the run holds ")
    assert "tuner set " in said
    held = [trial["epoch"] for trial in tuner.state("limited")["trials"]]
    tuner.run("set", "limited", "storage.limit=4 MB")
    most = 0.0
    while driver.poll() is None:
        most = max(most, measured(Run(run), {}).total)
        time.sleep(0.5)
    _, err = driver.communicate(timeout=60)
    assert driver.returncode == 0, err
    assert most <= 4e6
    state = tuner.state("limited")
    assert [trial["state"] for trial in state["trials"]] == ["complete"] * 7
    assert all(trial["epoch"] >= before for trial, before in zip(state["trials"], held, strict=False))
    best = sorted(state["trials"], key=lambda trial: (-trial["score"], trial["key"]))[:3]
    assert all(list((run / "trials" / trial["key"]).glob("step-*")) for trial in best)
    assert list(run.glob("trials/*/checkpoints-deleted.txt")) or len(list(run.glob("trials/*/step-*"))) < 14
    assert "going on" in Path(printed.name).read_text()
