"""The distance of the teacher from the student, by part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from trainables.config.monitor import Curve
from trainables.learning.monitors.base import Monitor, Numbers, Watched

if TYPE_CHECKING:
    from trainables.data.images import Images


class Distance(Monitor):
    """|teacher - student| / |student| of each averaged part."""

    CURVES: ClassVar[Mapping[str, Curve]] = {
        "distance": Curve("teacher/distance", "|teacher - student| / |student| of a part.")
    }

    def measure(self, watched: Watched, validation: Images) -> Numbers:
        teacher = watched.teacher
        return {f"distance/{part}": teacher.distance(part) for part in teacher.averaged}
