"""Runs the monitors that a trial names, as one object with one state. Each is a file of `monitors/` beside it."""

from collections.abc import Mapping

import torch
from torch import Tensor

from trainables.config import discovery
from trainables.config import monitors as c
from trainables.config.durations import Length
from trainables.data.images import Images
from trainables.learning.monitors.base import Monitor, Numbers, Watched
from trainables.learning.traces import Traces

KINDS: dict[str, type[Monitor]] = discovery.classes("learning.monitors", Monitor)
PREFIX = "remembered."  # of the names of state in checkpoints


class Monitors:
    """The monitors that a configuration names.

    Args:
        config: their names, in the order of measuring, and how often they are traced within an epoch.
        run: length of the run.
    """

    def __init__(self, config: c.Monitors, run: Length):
        self.monitors = {name: KINDS[name]() for name in config.names}
        self.run = run
        self._traces = Traces(config, list(self.monitors.values()), run)

    def need_gradients(self, step: int) -> bool:
        """Whether one of them reads the gradients at the outputs of parts in the step after which `step` are made."""
        readers = [monitor for monitor in self.monitors.values() if monitor.NEEDS_GRADIENTS]
        traced = self._traces.due(step) and any(monitor.TRACES for monitor in readers)
        return bool(readers) and (traced or step % self.run.per_epoch == 0)

    @torch.no_grad()
    def trace(self, step: int, watched: Watched) -> None:
        """Adds a row to the traces, where one is due after `step` steps. Collective; waits for nothing."""
        if self._traces.due(step):
            self._traces.add(step, watched)

    @torch.no_grad()
    def measure(self, watched: Watched, validation: Images) -> Numbers:
        """The numbers of all monitors, as "monitor/..." metrics. Collective."""
        numbers: Numbers = {}
        for monitor in self.monitors.values():
            numbers |= {f"monitor/{key}": value for key, value in monitor.measure(watched, validation).items()}
        return numbers

    def state_dict(self) -> dict[str, Tensor]:
        """What the monitors carry from epoch to epoch, and the traces so far, by name."""
        carried = {
            f"{PREFIX}{name}": tensor for monitor in self.monitors.values() for name, tensor in monitor.state.items()
        }
        return carried | self._traces.state_dict()

    def load_state_dict(self, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        """Restores what `state_dict` gave. A checkpoint from before a monitor's first epoch has nothing of it."""
        for monitor in self.monitors.values():
            monitor.state = {
                name: tensors[f"{PREFIX}{name}"].to(device) for name in monitor.STATE if f"{PREFIX}{name}" in tensors
            }
        self._traces.load_state_dict(tensors)
