"""What `tuner pause`, `stop` and `set` share: they ask the driver that holds a run."""

import time
from collections.abc import Mapping
from pathlib import Path

from optuna.trial import FrozenTrial

from trainables.config.errors import UserError
from tuner.commands import searching
from tuner.report.viewer import STATES
from tuner.runs.hints import counted, resume_hint
from tuner.runs.requests import Action
from tuner.runs.run import Run
from tuner.search.study import key_of

END_WAIT = 90.0  # seconds for a driver to end: trials make a checkpoint first
LOOK = 0.2  # seconds between two looks whether it has


def held(path: Path) -> Run:
    """A run that a driver holds now.

    Raises:
        UserError: the folder is no run, or no driver holds it.
    """
    run = Run(path)
    if not run.held():
        raise UserError(f"{path}: no driver runs it now, so there is nobody to ask; {resume_hint(run)}")
    return run


def trial_of(run: Run, name: str) -> FrozenTrial:
    """A trial of a search, as a user names it: 3 or 0003.

    Raises:
        UserError: the search has no such trial, or it has ended.
    """
    if run.kind == "train":
        raise UserError(f"--trial {name}: {run.path} is a full run, which has one trial; leave --trial away")
    trials = searching.read(run).trials()
    number = int(name) if name.isascii() and name.isdecimal() and len(name) < 10 else -1
    if not 0 <= number < len(trials):
        asked = f"it has asked {counted(len(trials), 'trial')}" + (f", 0000 to {key_of(trials[-1])}" if trials else "")
        raise UserError(f"--trial {name}: the search has no such trial; {asked}")
    trial = trials[number]
    if trial.state.is_finished():
        raise UserError(f"--trial {name}: has ended already ({STATES[trial.state]})")
    return trial


def ask(run: Run, action: Action, key: str | None = None, values: Mapping[str, object] | None = None) -> None:
    """Asks the driver, and returns once it has agreed.

    Raises:
        UserError: the driver refuses.
        BrokenOff: the driver has ended, or does not answer.
    """
    requests = run.requests
    if refused := requests.wait(requests.send(action, key, values), run.held):
        raise UserError(f"{run.path}: {refused}")


def wait_for_end(run: Run) -> bool:
    """Waits until the driver has ended; returns whether it has."""
    end = time.monotonic() + END_WAIT
    while run.held():
        if time.monotonic() > end:
            return False
        time.sleep(LOOK)
    return True
