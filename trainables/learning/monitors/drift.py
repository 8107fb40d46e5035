"""How far the teacher moves between evaluated epochs (Spatial Ensemble, Fig. 3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from trainables.config.monitor import Curve
from trainables.learning.monitors.base import Monitor, Numbers, Watched

if TYPE_CHECKING:
    from torch import Tensor

    from trainables.data.images import Images

PROBES = 256  # validation images whose projections are compared


class Drift(Monitor):
    """Mean squared change of the teacher since the last evaluated epoch.

    parameters: of the averaged parameters. outputs: of the projections of validation images in evaluation mode.
    """

    CURVES: ClassVar[Mapping[str, Curve]] = {
        "drift": Curve("teacher/drift", "Mean squared change of the teacher since the last evaluated epoch.")
    }
    STATE: ClassVar[tuple[str, ...]] = ("outputs", "parameters")

    def measure(self, watched: Watched, validation: Images) -> Numbers:
        import torch

        averaged = [tensor for tensors in watched.teacher.averaged.values() for tensor in tensors]
        now = {"outputs": _outputs(watched, validation)}
        if averaged:
            now["parameters"] = torch.cat([tensor.flatten() for tensor in averaged])
        before, self.state = self.state, now
        return {f"drift/{name}": (now[name] - before[name]).square().mean().item() for name in now if name in before}


def _outputs(watched: Watched, validation: Images) -> Tensor:
    """The teacher's projections of the first validation images, in evaluation mode. Collective."""
    import torch

    from trainables.data import augment
    from trainables.networks.encoders import run_parts
    from trainables.networks.modes import in_evaluation_mode

    group = watched.shards.group
    watched.teacher.gather(group)
    parts = watched.teacher.encoder(watched.student.parts)
    index = torch.arange(min(PROBES, len(validation)))
    images = augment.standardise(validation.batch(index, group.device, watched.dtype))
    with in_evaluation_mode(parts):
        return run_parts(parts, images)
