"""The monitors of a trial, as one thing that measures and has a state."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from trainables.config import discovery
from trainables.data.images import Images
from trainables.learning.monitors.base import Monitor, Numbers, Watched

KINDS: dict[str, type[Monitor]] = discovery.classes("learning.monitors", Monitor)
PREFIX = "remembered."  # of the names of state in checkpoints


class Monitors:
    """The monitors that a configuration names.

    Args:
        names: their names, in the order of measuring.
    """

    def __init__(self, names: Sequence[str]):
        self.monitors = {name: KINDS[name]() for name in names}

    @property
    def need_gradients(self) -> bool:
        """Whether one of them reads the gradients at the outputs of parts."""
        return any(monitor.NEEDS_GRADIENTS for monitor in self.monitors.values())

    @torch.no_grad()
    def measure(self, watched: Watched, validation: Images) -> Numbers:
        """The numbers of all monitors, as "monitor/..." metrics. Collective."""
        numbers: Numbers = {}
        for monitor in self.monitors.values():
            numbers |= {f"monitor/{key}": value for key, value in monitor.measure(watched, validation).items()}
        return numbers

    def state_dict(self) -> dict[str, Tensor]:
        """What the monitors carry from epoch to epoch, by name."""
        return {
            f"{PREFIX}{name}": tensor for monitor in self.monitors.values() for name, tensor in monitor.state.items()
        }

    def load_state_dict(self, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        """Restores what `state_dict` gave. A checkpoint from before a monitor's first epoch has nothing of it."""
        for monitor in self.monitors.values():
            monitor.state = {
                name: tensors[f"{PREFIX}{name}"].to(device) for name in monitor.STATE if f"{PREFIX}{name}" in tensors
            }
