"""The section `monitors` of a TrialConfig: what is measured of a trial beside its scores. Needs no torch.

What is known of each monitor is in `trainables.config.monitor`; `trainables.learning.monitoring` runs them.
"""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, model_validator

from trainables.config import discovery
from trainables.config.durations import Length, steps_in
from trainables.config.encoder import Encoder
from trainables.config.monitor import MonitorInfo
from trainables.config.sections import Duration, Section

MONITORS = discovery.classes("learning.monitors", MonitorInfo)
MOST_ROWS = 50_000  # of a trial's traces: each checkpoint holds them all
if TYPE_CHECKING:
    Monitor = str
else:
    Monitor = Literal[
        discovery.ordered("learning.monitors", ("distance", "statistics", "embedding", "gradients", "drift", "filters"))
    ]


class Monitors(Section):
    """What is measured for TensorBoard and figures, beside the scores."""

    SHORT: ClassVar[str] = "names"

    names: Annotated[tuple[Monitor, ...], AfterValidator(lambda names: tuple(dict.fromkeys(names)))] = (
        "distance",
        "statistics",
        "embedding",
    )
    """What is measured after each epoch."""
    every: Duration | None = None
    """How often gradients and filters are traced within an epoch too, such as 20 steps, first after so many; null: they
    are not. At most the length of the run.
    """

    @model_validator(mode="after")
    def _traces_something(self) -> Self:
        if self.every is None:
            return self
        if steps_in(self.every, Length(100, 1)) < 1:
            raise ValueError(f"monitors.every = {self.every}: must be at least 1 step")
        able = [name for name, monitor in MONITORS.items() if monitor.TRACES]
        if not set(able) & set(self.names):
            named = ", ".join(self.names) or "nothing"
            rule = f"names nothing that is traced within an epoch, only {named}; add one of {', '.join(able)}"
            raise ValueError(f"monitors.every = {self.every}: monitors.names {rule}")
        return self

    def check(self, encoder: Encoder) -> None:
        """Raises ValueError, "monitors: rule", for an encoder that cannot be watched so."""
        for name in self.names:
            MONITORS[name].check(encoder)

    def steps_between(self, run: Length) -> int | None:
        """Returns the steps from one row of the traces to the next; None where nothing is traced."""
        return None if self.every is None else max(1, steps_in(self.every, run))

    def too_often(self, run: Length) -> str | None:
        """Returns the rule that the traces of a run break because they have too many rows; None if they do not."""
        steps = self.steps_between(run)
        if steps is None or (rows := run.total // steps) <= MOST_ROWS:
            return None
        made = f"makes {rows:,} rows in the {run.total:,} steps of the run"
        return f"{made}, and at most {MOST_ROWS:,} are kept; {-(-run.total // MOST_ROWS)} steps fit"
