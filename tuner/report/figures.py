"""Figures of what trials have traced within their epochs, after the placement paper's, as PNG.

gradients: Fig. 5, the largest gradient at the output of each block and of the projector, over the steps. The output of
    the projector's layers but the last is shown beside it: in a projector through a plane it is these two numbers.
filters: Fig. 2, the paths of the rows of the projector's last layer in their plane. They begin with the traces, which
    is after `monitors.every` steps.
coordinates: the same rows, each coordinate over the steps, where a jump of all of them is seen at its step (Fig. E).

Trials stand side by side. Matplotlib is imported when something is drawn.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from trainables.config import trial as c
from trainables.config.errors import UserError, printable
from trainables.config.monitor import FILTER, GRADIENT, STEPS
from trainables.running import traces
from trainables.running.checkpoint_header import config_in
from trainables.running.traces import Rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Network = Literal["student", "teacher"]

PARTS = {
    "block1": "block 1",
    "block2": "block 2",
    "block3": "block 3",
    "block4": "block 4",
    "fc1": "projector, hidden layer",
    "fc2": "projector",
}
COLOURS = ("#9ecae1", "#6baed6", "#3182bd", "#08306b", "#fd8d3c", "#d62728")  # of these parts, in their order
MOST_POINTS = 2000  # of a path; of longer ones as many are drawn, evenly apart
PANEL = (4.4, 3.8)  # inches
DPI = 130


class Traced(NamedTuple):
    """A trial in a figure: what is written above its panel, and the rows of its traces."""

    title: str
    rows: Rows


class Kind(NamedTuple):
    """A kind of figure: what the names of its traces begin with, what is said of it, and how it is drawn."""

    prefix: str
    text: str
    draw: Callable[[Sequence[Traced], Network], Figure]


def traced(folder: Path) -> Traced:
    """The traces of a trial, and a title of the teacher's momentum.

    Raises:
        UserError: there are no traces, or they are damaged.
    """
    nested = config_in(folder)
    return Traced(folder.name if nested is None else title(folder.name, c.parse(nested)), traces.read(folder))


def title(key: str, config: c.TrialConfig) -> str:
    """What is written above a trial's panel: its key, and the keep-rate of its projector's last layer."""
    teacher = config.teacher
    if teacher.smoothing.kind == "se":
        return key
    return f"{key}, β = {teacher.momentum_of('fc2').base if 'fc2' in teacher.placement else 0:g}"


def kinds_in(rows: Rows) -> list[str]:
    """The kinds of figure that can be drawn of a trial's traces."""
    return [name for name, kind in KINDS.items() if any(key.startswith(kind.prefix) for key in rows)]


def figure(kind: str, trials: Sequence[Traced], network: Network = "student") -> Figure:
    """Draws a figure.

    Args:
        kind: a name in `KINDS`.
        trials: at least one; each has a column of panels.
        network: whose filters are drawn. Gradients are the student's.

    Raises:
        UserError: the traces of a trial lack what the figure shows.
    """
    for one in trials:
        if kind not in kinds_in(one.rows):
            others = ", ".join(kinds_in(one.rows)) or "nothing that is drawn"
            raise UserError(f"{one.title}: was not traced for the figure {kind}, only for {others}; see monitors.names")
    return KINDS[kind].draw(trials, network)


def png(drawn: Figure) -> bytes:
    """A figure as the content of a PNG file."""
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def _panels(rows: int, columns: int, one_scale: bool = False) -> tuple[Figure, list[list[Axes]]]:
    """An empty figure, and its panels by row; with `one_scale` all have the same vertical axis."""
    from matplotlib.figure import Figure

    made = Figure(figsize=(PANEL[0] * columns + 0.8, PANEL[1] * rows), layout="constrained")
    return made, [list(row) for row in made.subplots(rows, columns, squeeze=False, sharey=one_scale)]


def _head(panel: Axes, title: str) -> None:
    """Writes a title as it is: a dollar sign begins no formula, and what has no letter is shown by its code."""
    panel.set_title("\n".join(map(printable, title.splitlines())), parse_math=False)


def _gradients(trials: Sequence[Traced], network: Network) -> Figure:
    """A panel for each trial, with a line for each part, on one logarithmic scale."""
    made, (panels,) = _panels(1, len(trials), one_scale=True)
    for panel, one in zip(panels, trials, strict=True):
        for (part, name), colour in zip(PARTS.items(), COLOURS, strict=True):
            if (trace := f"{GRADIENT}{part}") in one.rows:  # a Wide ResNet has no block4
                panel.plot(one.rows[STEPS], one.rows[trace], color=colour, linewidth=0.8, label=name)
        _head(panel, one.title)
        panel.set(xlabel="step", yscale="log")
    panels[0].set_ylabel("largest |∂L / ∂ output|")
    made.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    return made


def _filters(trials: Sequence[Traced], network: Network) -> Figure:
    """A panel for each trial, with a path for each filter. Points are coloured by step, the last one is ringed."""
    made, (panels,) = _panels(1, len(trials))
    last = max(int(one.rows[STEPS][-1]) for one in trials)
    for panel, one in zip(panels, trials, strict=True):
        chosen = _spread(len(one.rows[STEPS]))
        steps, points = one.rows[STEPS][chosen], one.rows[f"{FILTER}{network}"][chosen]
        panel.plot(points[..., 0], points[..., 1], color="0.85", linewidth=0.5, zorder=1)
        coloured = panel.scatter(
            points[..., 0].T,
            points[..., 1].T,
            c=np.tile(steps, points.shape[1]),
            s=3,
            cmap="viridis",
            vmin=0,
            vmax=last,
            linewidths=0,
            zorder=2,
        )
        panel.scatter(
            points[-1, :, 0], points[-1, :, 1], s=22, facecolors="none", edgecolors="black", linewidths=0.8, zorder=3
        )
        _head(panel, f"{one.title}, {network}")
        panel.set(xlabel="first coordinate")
    panels[0].set_ylabel("second coordinate")
    made.colorbar(coloured, ax=panels, label="step")
    return made


def _coordinates(trials: Sequence[Traced], network: Network) -> Figure:
    """Two panels for each trial, one below the other: a line for each filter's first and second coordinate."""
    made, rows = _panels(2, len(trials))
    for axis, (panels, name) in enumerate(zip(rows, ("first coordinate", "second coordinate"), strict=True)):
        for panel, one in zip(panels, trials, strict=True):
            panel.plot(one.rows[STEPS], one.rows[f"{FILTER}{network}"][..., axis], linewidth=0.8)
            if axis == 0:
                _head(panel, f"{one.title}, {network}")
            panel.set(xlabel="step" if axis else "")
        panels[0].set_ylabel(name)
    return made


def _spread(count: int) -> np.ndarray:
    """Indices of at most `MOST_POINTS` of `count` rows, evenly apart; the first and the last are among them."""
    return np.unique(np.linspace(0, count - 1, min(count, MOST_POINTS)).round().astype(int))


KINDS = {
    "gradients": Kind(GRADIENT, "The largest gradient at the output of each part, over the steps.", _gradients),
    "filters": Kind(FILTER, "The paths of the rows of the projector's last layer, coloured by step.", _filters),
    "coordinates": Kind(FILTER, "The rows of the projector's last layer, over the steps.", _coordinates),
}
"""By name."""
