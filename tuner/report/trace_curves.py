"""The traces of a trial as TensorBoard shows them: curves while it trains, and figures at its end."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from trainables.config import trial as c
from trainables.config.errors import UserError
from trainables.running import traces
from tuner.report import figures
from tuner.report.figures import Traced

log = logging.getLogger(__name__)

Points = list[tuple[int, float]]
"""Step and value."""


class TraceCurves:
    """Hands out the rows of a trial's traces as they come. Traces that cannot be read are left out.

    Args:
        folder: of the trial.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._shown = 0  # the step until which points were handed out
        self._rows: traces.Rows = {}

    def until(self, step: float) -> dict[str, Points]:
        """The points since the last call, up to a step, by metric. Only numbers have them: filters have figures."""
        if not self._rows or self._rows["steps"][-1] < step:
            self._read()
        if not self._rows:
            return {}
        steps = self._rows["steps"]
        new = np.flatnonzero((steps > self._shown) & (steps <= step))
        self._shown = round(step)
        return {
            f"monitor/{name}": list(zip(steps[new].tolist(), values[new].tolist(), strict=True))
            for name, values in self._rows.items()
            if values.ndim == 1 and name != "steps"
        }

    def figures(self, config: c.TrialConfig) -> Iterator[tuple[str, str, bytes]]:
        """Draws each figure that the traces have.

        Args:
            config: of the trial.

        Yields:
            Its name, what is said of it, and the content of a PNG file.
        """
        self._read()
        trial = Traced(figures.title(self._folder.name, config), self._rows)
        for kind in figures.kinds_in(self._rows):
            yield f"figures/{kind}", figures.KINDS[kind].text, figures.png(figures.figure(kind, [trial]))

    def _read(self) -> None:
        try:
            self._rows = traces.read(self._folder)
        except UserError as error:
            log.warning("%s", error)
