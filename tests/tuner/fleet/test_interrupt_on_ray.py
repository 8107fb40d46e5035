"""^C once: trials make a checkpoint at their step. Twice: the driver ends at once. A resume goes on either way."""

import signal
import time
from typing import Any

import pytest

from tests.tuner.conftest import SMALL, Tuner
from tests.tuner.fleet.test_kill import checkpoints, wait_for
from trainables.running import checkpoint

pytestmark = [pytest.mark.long, pytest.mark.ray, pytest.mark.timeout(300)]
STEPS = 8  # of an epoch


def started(tuner: Tuner, run: str) -> Any:
    """A driver whose only trial has ended its first epoch. It makes checkpoints at the ends of epochs alone."""
    train = {**SMALL["trial"]["train"], "epochs": 400, "checkpoint_steps": None}
    search = tuner.write_search(trials=1, trial={**SMALL["trial"], "train": train}, resources={"workers": 1})
    driver = tuner.start("launch", search, "--run", run)
    wait_for(lambda: checkpoints(tuner.folder / run, "0000"), "checkpoint")
    return driver


def test_the_first_interrupt_makes_a_checkpoint_and_the_second_ends_at_once(tuner: Tuner) -> None:
    driver = started(tuner, "once")
    driver.send_signal(signal.SIGINT)
    asked = time.monotonic()
    out, err = driver.communicate(timeout=60)
    print(f"ended {time.monotonic() - asked:.1f} s after ^C")
    assert driver.returncode == 130
    assert "interrupted: trials make a checkpoint; ^C again ends at once" in out
    (line,) = err.splitlines()
    assert line.startswith("interrupted; continue with: ")
    log = (tuner.folder / "once" / "trials" / "0000" / "rank-0.log").read_text()
    assert "left" in log
    saved = checkpoint.newest(tuner.folder / "once" / "trials" / "0000")
    assert saved is not None

    again = tuner.start("resume", "once")
    folder = tuner.folder / "once" / "trials" / "0000"
    wait_for(lambda: f"continued from {saved.path}" in (folder / "rank-0.log").read_text(), "resume")
    again.send_signal(signal.SIGINT)
    wait_for(lambda: "interrupted: " in (tuner.folder / "once" / "logs" / "driver.log").read_text() or True, "word")
    again.send_signal(signal.SIGINT)
    asked = time.monotonic()
    _, err = again.communicate(timeout=60)
    assert again.returncode == 130
    assert time.monotonic() - asked < 10
    assert err.splitlines()[-1].startswith("interrupted; continue with: ")
