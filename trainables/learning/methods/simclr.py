"""SimCLR: NT-Xent over both views of the batch (Chen et al. 2020, eq. 1).

With an averaged copy (`teacher.placement`) it is "SimCLR + EMA": anchors are the student's and keys are the teacher's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from trainables.learning.methods.base import Method, Pass, Temperature

if TYPE_CHECKING:
    from torch import Tensor


class SimCLR(Method):
    """NT-Xent: a view finds its other view among all views of other samples.

    Without an averaged copy, gradients flow into keys as well.
    """

    name: Literal["simclr"] = "simclr"
    temperature: Temperature = Temperature(base=0.2)
    negatives: Literal["batch", "shard"] = "batch"
    """Where the other samples come from: the batch, on all workers, or the shard."""

    DEFAULTS: ClassVar[dict[str, Any]] = {
        "teacher.placement": "none",
        "encoder.projector": {"hidden": 2048, "out": 256, "norm": "none"},
    }

    @property
    def looks_at_the_batch(self) -> bool:
        return self.negatives == "batch"

    def loss(self, outputs: Pass) -> Tensor:
        import torch
        import torch.nn.functional as F

        anchors = F.normalize(outputs.predictions, dim=-1)
        keys = F.normalize(outputs.targets, dim=-1) if outputs.averaged else anchors
        if self.negatives == "batch":
            return self._contrast(anchors, outputs.gather(keys), outputs.first, outputs.at(self.temperature))
        shards = zip(anchors.chunk(outputs.shards, dim=1), keys.chunk(outputs.shards, dim=1), strict=True)
        return torch.cat([self._contrast(own, others, 0, outputs.at(self.temperature)) for own, others in shards])

    def _contrast(self, anchors: Tensor, keys: Tensor, first: int, temperature: float) -> Tensor:
        """Returns the loss [N] of anchors [2, N, D], which are the samples from `first` on of the keys [2, B, D]."""
        import torch
        import torch.nn.functional as F

        views, count, batch = *anchors.shape[:2], keys.shape[1]
        logits = anchors.flatten(0, 1) @ keys.flatten(0, 1).T / temperature  # [2 N, 2 B]
        row, sample = (
            torch.arange(views * count, device=logits.device),
            torch.arange(count, device=logits.device) + first,
        )
        own = torch.cat([sample + view * batch for view in range(views)])
        other = torch.cat([sample + (1 - view) * batch for view in range(views)])
        logits = logits.index_put((row, own), logits.new_tensor(float("-inf")))
        return F.cross_entropy(logits, other, reduction="none").view(views, count).mean(0)
