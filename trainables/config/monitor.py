"""The class of facts that one monitor tells configurations and reports, such as its curves. Needs no torch.

The section `monitors` of a TrialConfig is in `trainables.config.monitors`.
"""

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

from trainables.config.encoder import Encoder

STEPS = "steps"  # name of the trace that holds the number of steps made before each row
GRADIENT, FILTER = "gradient/", "filter/"  # what the names of other traces begin with


class Curve(NamedTuple):
    """How TensorBoard shows a group of a monitor's numbers: under which name, and with which text."""

    name: str
    text: str


class MonitorInfo:
    """The part of a monitor that needs no torch.

    CURVES: by the first part of the names of its numbers.
    TRACES: whether it can be traced within an epoch (`monitors.every`).
    """

    CURVES: ClassVar[Mapping[str, Curve]] = {}
    TRACES: ClassVar[bool] = False

    @classmethod
    def check(cls, encoder: Encoder) -> None:
        """Raises ValueError, "monitors: rule", for an encoder that cannot be watched so."""
