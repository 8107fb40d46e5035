"""Traces: what monitors see within an epoch, a row for each traced step."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from trainables.config.durations import Length
from trainables.config.monitor import STEPS
from trainables.config.monitors import Monitors
from trainables.learning.monitors.base import Monitor, Watched

PREFIX = "trace."  # of the names of rows in checkpoints


class Traces:
    """The rows that the monitors of a trial have traced: after each so many steps, and after the last one of the run.

    Steps are those of the whole run, so rows do not depend on interruptions. A row belongs to a step that was made: a
    gradient has no value before the first one, and so no row is of step 0. New rows stay on the device until the
    state is asked for, so a traced step waits for nothing.

    Args:
        config: how often, see `Monitors.every`.
        monitors: of the trial; those that `TRACES` are asked.
        run: length of the run.
    """

    def __init__(self, config: Monitors, monitors: Sequence[Monitor], run: Length):
        self.run, self._between = run, config.steps_between(run)
        self.monitors = [] if self._between is None else [monitor for monitor in monitors if monitor.TRACES]
        self._steps: list[int] = []  # of the rows that are not among `_kept`
        self._rows: dict[str, list[Tensor]] = {}
        self._kept: dict[str, Tensor] = {}  # of all earlier rows, on the CPU

    def due(self, step: int) -> bool:
        """Whether a row is made after `step` steps."""
        return self._between is not None and (step % self._between == 0 or step == self.run.total)

    def add(self, step: int, watched: Watched) -> None:
        """Adds the row of the Learner after `step` steps. Collective."""
        self._steps.append(step)
        for monitor in self.monitors:
            for name, tensor in monitor.trace(watched).items():
                self._rows.setdefault(name, []).append(tensor)

    def state_dict(self) -> dict[str, Tensor]:
        """All rows by name, on the CPU: [rows, ...], and "steps" [rows], the number of steps that were made before."""
        if self._steps:
            new = {name: torch.stack(rows).cpu() for name, rows in self._rows.items()}
            new[STEPS] = torch.tensor(self._steps)
            self._kept = {
                name: torch.cat([self._kept[name], rows]) if self._kept else rows for name, rows in new.items()
            }
            self._steps, self._rows = [], {}
        return {f"{PREFIX}{name}": rows for name, rows in self._kept.items()}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Restores what `state_dict` gave. A checkpoint from before the first row has nothing of it."""
        self._steps, self._rows = [], {}
        self._kept = {name: tensor.cpu() for name, tensor in traces_in(tensors).items()}


def traces_in(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The rows by name that are among the tensors of a checkpoint, and their "steps"; nothing where none were made."""
    return {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}
