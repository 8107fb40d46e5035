"""What trials cost, as tables for the terminal and as JSON: counts, what was measured, and the figures of papers."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table
from rich.text import Text

from trainables.running.cost import Counts
from trainables.running.messages import Cost
from tuner.plan.paper import FIGURES
from tuner.plan.storage import as_size
from tuner.report.terminal import titled

TITLES = {
    "averaged_layers": "averaged layers",
    "forwards_a_view": "forwards a view",
    "minutes_an_epoch": "minutes an epoch",
    "parameters_millions": "parameters, millions",
    "seconds_a_step": "seconds a step",
    "time_over_tma": "time over TMA",
}
LAYERS = (
    "layers: convolutions and linear layers that the teacher averages, shortcuts and prototypes included; in brackets "
    "as papers count: the depth in the network's name and the head's linear layers"
)
PARAMETERS = "parameters: averaged ones of the teacher alone, the student's, and those of the backbones of both"
FORWARDS = (
    "forwards: pictures an image that go through a network's parts in a step; a prefix that is shared counts once"
)
FLOP = (
    "GFLOP an image: forward of the student, its backward with the loss, forward of the teacher; 2 for a product with "
    "its sum, in convolutions and products of matrices alone"
)
HELD = "held: parameters, gradients, optimiser, averages, statistics and the method's state, without activations"
PAPERS = (
    "layers as papers count them; parameters of the backbones of student and teacher, without their heads; a paper's "
    "times are those of its machines; -: not measured (--measure; minutes an epoch need the data, too)"
)
NO_PROBE = "the online probe is left out, because the number of classes is not known without the data; see --classes"


@dataclass(frozen=True)
class CostRow:
    """A trial with what it costs.

    Attributes:
        label: of the trial.
        counts: of its step.
        measured: by a dry step on this machine; None where none was made.
        unmeasured: why a dry step that was asked for has no result.
        images: that it learns from, where their number is known.
        reported: figures that a paper prints, by their names in `FIGURES`.
    """

    label: str
    counts: Counts
    measured: Cost | None = None
    unmeasured: str = ""
    images: int | None = None
    reported: Mapping[str, float] = field(default_factory=dict)

    @property
    def figures(self) -> dict[str, float]:
        """Ours, by the names in `FIGURES`, as far as they are known of this trial alone."""
        counts, measured = self.counts, self.measured
        known = {
            "averaged_layers": float(counts.nominal_layers),
            "forwards_a_view": counts.forwards_a_view,
            "parameters_millions": counts.backbone_parameters / 1e6,
        }
        if measured is not None:
            known["seconds_a_step"] = measured.seconds
            if self.images is not None:
                known["minutes_an_epoch"] = measured.seconds * (self.images // counts.batch) / 60
        return known


def tables(rows: Sequence[CostRow]) -> list[Table]:
    """The table of all trials, that of the parts where there is one trial, and that of a paper's figures, if any."""
    made = [_of_trials(rows)]
    if len(rows) == 1:
        made.append(_of_parts(rows[0].counts))
    printed = [name for name in FIGURES if any(name in row.reported for row in rows)]
    return [*made, _beside_the_paper(rows, printed)] if printed else made


def as_json(rows: Sequence[CostRow]) -> list[dict[str, Any]]:
    """All counts, and what was measured, as plain values; `ours` and `paper` have the figures that papers print."""
    whole = figures(rows)
    return [
        {
            "trial": row.label,
            **dataclasses.asdict(row.counts),
            "flop": {**vars(row.counts.flop), "total": row.counts.flop.total},
            "memory": {**vars(row.counts.memory), "total": row.counts.memory.total},
            "backbone_parameters": row.counts.backbone_parameters,
            "measured": row.measured and vars(row.measured),
            "unmeasured": row.unmeasured or None,
            "ours": ours,
            "paper": dict(row.reported),
        }
        for row, ours in zip(rows, whole, strict=True)
    ]


def figures(rows: Sequence[CostRow]) -> list[dict[str, float]]:
    """Our figures of each row. Times over TMA are those over the row that has 1 in the paper."""
    known = [row.figures for row in rows]
    first = next((row for row in rows if row.reported.get("time_over_tma") == 1), None)
    if first is None or first.measured is None:
        return known
    return [
        {**ours, "time_over_tma": ours["seconds_a_step"] / first.measured.seconds} if row.measured else ours
        for row, ours in zip(rows, known, strict=True)
    ]


def _of_trials(rows: Sequence[CostRow]) -> Table:
    measured = any(row.measured or row.unmeasured for row in rows)
    notes = [LAYERS, PARAMETERS, FORWARDS, FLOP, HELD]
    notes += [NO_PROBE] if any(row.counts.without_probe for row in rows) else []
    notes += [f"{row.label}: not measured: {row.unmeasured}" for row in rows if row.unmeasured]
    if found := [row.measured for row in rows if row.measured]:
        notes.append(
            f"measured: {'a GPU' if found[0].gpu_memory is not None else 'the CPU'} of this machine, one worker"
        )
    table = titled("what a step costs", notes, "trial")
    names = ("layers", "averaged", "student", "backbones", "images", "forwards", "GFLOP an image", "held")
    for name in (*names, *(("s a step", "peak") if measured else ())):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*map(Text, [row.label, *_cells(row.counts), *(_timed(row.measured) if measured else ())]))
    return table


def _cells(counts: Counts) -> list[str]:
    flop, batch = counts.flop, counts.batch
    return [
        f"{counts.averaged_modules} ({counts.nominal_layers})",
        f"{counts.teacher_parameters / 1e6:.2f} M",
        f"{counts.student_parameters / 1e6:.2f} M",
        f"{counts.backbone_parameters / 1e6:.2f} M",
        f"{batch}",
        _forwards(counts),
        " + ".join(_short(part / batch / 1e9) for part in (flop.student, flop.backward, flop.teacher)),
        as_size(counts.memory.total),
    ]


def _forwards(counts: Counts) -> str:
    """Pictures an image of student and teacher, and where the teacher's begin if that is not the first part."""
    run = [part for part in counts.parts if part.teacher]
    told = f"{_short(counts.parts[0].student)} + {_short(run[-1].teacher) if run else 0}"
    return told if not run or run[0] is counts.parts[0] else f"{told} from {run[0].part}"


def _timed(measured: Cost | None) -> list[str]:
    if measured is None:
        return ["", ""]
    peak = measured.memory if measured.gpu_memory is None else measured.gpu_memory
    return [f"{measured.seconds:.3g}", as_size(peak)]


def _of_parts(counts: Counts) -> Table:
    table = titled("the encoder's parts; forwards are pictures an image", (), "part")
    for name in ("layers", "parameters", "averaged", "student's forwards", "teacher's forwards"):
        table.add_column(name, justify="right")
    for part in counts.parts:
        averaged = "yes" if part.averaged else "no"
        forwards = _short(part.student), _short(part.teacher)
        table.add_row(part.part, f"{part.layers}", f"{part.parameters:,}", averaged, *forwards)
    return table


def _beside_the_paper(rows: Sequence[CostRow], printed: Sequence[str]) -> Table:
    table = titled("ours, and in brackets the paper's", [PAPERS], "trial")
    for name in printed:
        table.add_column(TITLES[name], justify="right")
    for row, ours in zip(rows, figures(rows), strict=True):
        pairs = [[_figure(name, told) for told in (ours, row.reported)] for name in printed]
        table.add_row(Text(row.label), *(f"{own} ({theirs})" for own, theirs in pairs))
    return table


def _figure(name: str, told: Mapping[str, float]) -> str:
    """A figure as papers print it, if it is told."""
    if name not in told:
        return "-"
    return f"{told[name]:.1f}" if name == "parameters_millions" else _short(told[name])


def _short(number: float) -> str:
    return f"{number:.3g}"
