"""The largest gradient that reaches each part's output (placement paper, Fig. 5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from trainables.config.monitor import Curve
from trainables.learning.monitors.base import Monitor, Numbers, Watched

if TYPE_CHECKING:
    from trainables.data.images import Images


class Gradients(Monitor):
    """Largest |dL/d output| of each part in the last step of an epoch, L the mean over the batch."""

    CURVES: ClassVar[Mapping[str, Curve]] = {
        "gradient": Curve("student/gradient", "Largest |dL / d output| of a part in the epoch's last step.")
    }
    NEEDS_GRADIENTS: ClassVar[bool] = True

    def measure(self, watched: Watched, validation: Images) -> Numbers:
        import torch

        names = list(watched.student.parts)
        largest = watched.shards.group.max(torch.stack([watched.output_gradients[name] for name in names]))
        means = (largest / watched.shards.total).tolist()
        return {f"gradient/{name}": value for name, value in zip(names, means, strict=True)}
