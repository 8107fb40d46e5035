"""The mismatch of norm statistics between teacher and student."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from trainables.config.monitor import Curve
from trainables.learning.monitors.base import Monitor, Numbers, Watched

if TYPE_CHECKING:
    from trainables.data.images import Images


class Statistics(Monitor):
    """Mismatch of the statistics that evaluations use, over all channels of the norms that the teacher runs.

    mean: |teacher's mean - student's| in the student's standard deviations.
    variance: |log(teacher's variance / student's)|.
    """

    CURVES: ClassVar[Mapping[str, Curve]] = {
        "statistics": Curve(
            "teacher/statistics",
            "Mismatch of the norms, teacher against student: means in standard deviations, |log| of variances.",
        )
    }

    def measure(self, watched: Watched, validation: Images) -> Numbers:
        import torch

        from trainables.networks.norms.base import EPS

        watched.teacher.gather(watched.shards.group)
        means, variances = [], []
        for _, teacher, student in watched.teacher.norm_pairs:
            (mean, var), (student_mean, student_var) = teacher.evaluation_statistics(), student.evaluation_statistics()
            means.append((mean - student_mean).abs() / (student_var + EPS).sqrt())
            variances.append(((var + EPS) / (student_var + EPS)).log().abs())
        if not means:
            return {}
        return {
            "statistics/mean": torch.cat(means).mean().item(),
            "statistics/variance": torch.cat(variances).mean().item(),
        }
