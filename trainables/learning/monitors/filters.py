"""The last layer's filters as points in a plane (placement paper, Fig. 2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from trainables.config.encoder import Encoder
from trainables.config.monitor import FILTER, Curve
from trainables.learning.monitors.base import Monitor, Numbers, Watched

if TYPE_CHECKING:
    from torch import Tensor

    from trainables.data.images import Images

FILTERS = 16  # rows that are followed
TEXT = "A row of the projector's last layer, as a point in a plane."


class Filters(Monitor):
    """The first rows of the projector's last layer, of student and teacher. Needs `encoder.projector.hidden: 2`.

    The traces "filter/student" and "filter/teacher" are rows [16, 2] as they are after a step.
    """

    CURVES: ClassVar[Mapping[str, Curve]] = {
        "filter/student": Curve("student/filter", TEXT),
        "filter/teacher": Curve("teacher/filter", TEXT),
    }
    TRACES: ClassVar[bool] = True

    @classmethod
    def check(cls, encoder: Encoder) -> None:
        head = encoder.projector
        if head.hidden != 2 or head.layers == 1 or head.prototypes:
            raise ValueError(
                f"monitors: filters are points in a plane, so encoder.projector.hidden = {head.hidden} must be 2, "
                f"with layers = {head.layers} at least 2 and without prototypes"
            )

    def measure(self, watched: Watched, validation: Images) -> Numbers:
        numbers: Numbers = {}
        for name, rows in self.trace(watched).items():
            for row, point in enumerate(rows.tolist()):
                numbers |= {f"{name}/{row}/{axis}": value for axis, value in zip("xy", point, strict=True)}
        return numbers

    def trace(self, watched: Watched) -> dict[str, Tensor]:
        networks = {
            "student": watched.student.parts,
            "teacher": watched.teacher.encoder(watched.student.parts),
        }
        return {
            f"{FILTER}{which}": parts["fc2"].get_parameter("0.weight")[:FILTERS].detach().clone()
            for which, parts in networks.items()
        }
