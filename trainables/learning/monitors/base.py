"""One file a monitor: what it measures of a Learner at the end of an epoch, and how TensorBoard shows it.

Some are also traced within an epoch, each so many steps (`monitors.every`): see `trainables.learning.traces`.

Configurations and reports read these files, so torch is imported where it is used. `trainables.learning.monitoring`
runs the monitors that a trial names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from trainables.config.monitor import MonitorInfo

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from trainables.data.images import Images
    from trainables.learning.teacher import Teacher
    from trainables.networks.norms.base import Shards
    from trainables.networks.student import Student

Numbers = dict[str, float]


@dataclass(frozen=True)
class Watched:
    """What monitors see of a Learner. They change none of it.

    Attributes:
        student: the trained network.
        teacher: its buffers are complete on every worker only after `teacher.gather`.
        shards: of the trial, with the group of workers.
        dtype: of the networks' inputs.
        projections: of the last step, for each pass [sights, shards, samples, D].
        output_gradients: the largest |dL/d output| of each part in the last step on this worker, L summed over the
            shards. Empty unless a monitor `NEEDS_GRADIENTS` and looks at the step: the last one of an epoch, or a
            traced one.
    """

    student: Student
    teacher: Teacher
    shards: Shards
    dtype: torch.dtype
    projections: Sequence[Tensor]
    output_gradients: Mapping[str, Tensor]


class Monitor(MonitorInfo):
    """Numbers about a Learner. What a monitor carries from epoch to epoch is in `state`, which checkpoints save.

    NEEDS_GRADIENTS: whether it reads `Watched.output_gradients`.
    STATE: names of the tensors in `state`; no other monitor uses them.
    """

    NEEDS_GRADIENTS: ClassVar[bool] = False
    STATE: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        self.state: dict[str, Tensor] = {}

    def measure(self, watched: Watched, validation: Images) -> Numbers:
        """The numbers of an epoch by name; "monitor/" is put before.

        Collective, and the same on every worker up to rounding.

        Args:
            watched: the Learner, after the last step of an epoch.
            validation: the validation images.
        """
        raise NotImplementedError

    def trace(self, watched: Watched) -> dict[str, Tensor]:
        """What is traced of a step, by the names of `CURVES`: a scalar for a curve, or a tensor for a figure.

        Names and shapes are the same for each step of a trial. Tensors are copies on the Learner's device, so the step
        waits for nothing. Collective, and the same on every worker. For a monitor that `TRACES`.

        Args:
            watched: the Learner after the step.
        """
        raise NotImplementedError
