"""The largest gradient that reaches each part's output (placement paper, Fig. 5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from trainables.config.monitor import GRADIENT, Curve
from trainables.learning.monitors.base import Monitor, Numbers, Watched

if TYPE_CHECKING:
    from torch import Tensor

    from trainables.data.images import Images


class Gradients(Monitor):
    """Largest |dL/d output| of each part in a step, L the mean over the batch: in the last step of an epoch, or traced.

    A trace "gradient/<part>" is a scalar. The projector's output is that of fc2.
    """

    CURVES: ClassVar[Mapping[str, Curve]] = {
        "gradient": Curve(
            "student/gradient", "Largest |dL / d output| of a part in a step: the epoch's last, or each that is traced."
        )
    }
    NEEDS_GRADIENTS: ClassVar[bool] = True
    TRACES: ClassVar[bool] = True

    def measure(self, watched: Watched, validation: Images) -> Numbers:
        return {name: value.item() for name, value in self.trace(watched).items()}

    def trace(self, watched: Watched) -> dict[str, Tensor]:
        import torch

        names = list(watched.student.parts)
        largest = watched.shards.group.max(torch.stack([watched.output_gradients[name] for name in names]))
        means = largest / watched.shards.total
        return {f"{GRADIENT}{name}": mean for name, mean in zip(names, means.unbind(), strict=True)}
