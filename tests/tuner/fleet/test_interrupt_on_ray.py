"""^C once: trials make a checkpoint at their step. Twice: the driver ends at once. A resume goes on either way."""

import signal
import time

import pytest

from tests.tuner.clusters import starts
from tests.tuner.conftest import SMALL, Tuner
from tests.tuner.fleet.test_kill import trains, wait_for
from trainables.running import checkpoint

pytestmark = [pytest.mark.long, pytest.mark.ray, pytest.mark.timeout(300)]
STEPS = 75  # of an epoch of some seconds, without a checkpoint before its end
TRIAL = {
    **SMALL["trial"],
    "data": {**SMALL["trial"]["data"], "train_images": 1200},
    "encoder": {**SMALL["trial"]["encoder"], "width": 16},
    "train": {**SMALL["trial"]["train"], "batch_size": 16, "epochs": 40, "checkpoint_steps": None},
}


def test_one_interrupt_makes_a_checkpoint_and_a_second_ends_at_once(tuner: Tuner) -> None:
    search = tuner.write_search(trials=1, trial=TRIAL, resources={"workers": 1})
    folder = tuner.folder / "run" / "trials" / "0000"
    driver = tuner.start("launch", search, "--run", "run")
    wait_for(lambda: starts(folder), "start of the trial")
    driver.send_signal(signal.SIGINT)
    asked = time.monotonic()
    out, err = driver.communicate(timeout=60)
    print(f"ended {time.monotonic() - asked:.1f} s after ^C")
    assert driver.returncode == 130
    wait_for(lambda: not trains(starts(folder)[-1][1]), "end of the worker", 60)
    assert "interrupted: trials make a checkpoint; ^C again ends at once" in out
    (line,) = err.splitlines()
    assert line.startswith("interrupted; continue with: ")
    saved = checkpoint.newest(folder)
    assert saved is not None and 0 < saved.name.step < STEPS, "in the middle of the first epoch"

    driver = tuner.start("resume", "run")
    wait_for(lambda: f"continued from {saved.path}" in (folder / "rank-0.log").read_text(), "resume")
    asked = time.monotonic()
    driver.send_signal(signal.SIGINT)
    time.sleep(0.05)
    driver.send_signal(signal.SIGINT)
    _, err = driver.communicate(timeout=60)
    print(f"ended {time.monotonic() - asked:.1f} s after the first ^C of two")
    assert driver.returncode == 130 and err.splitlines()[-1].startswith("interrupted; continue with: "), err
