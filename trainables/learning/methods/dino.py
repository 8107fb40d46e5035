"""DINO: the student's distribution over prototypes follows the teacher's centred, sharpened one (Caron et al. 2021,
alg. 1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from trainables.config.base import Trial, ViewKind
from trainables.config.durations import Length, steps_in
from trainables.config.sections import Duration, Share
from trainables.data.pieces import Sight
from trainables.learning.methods.base import Method, Pass, State, Temperature, sights

if TYPE_CHECKING:
    from torch import Tensor


class DINO(Method):
    """Cross entropy between teacher and student, averaged over ordered pairs of different views.

    The centre is a running mean of the teacher's logits with keep-rate `center_momentum`; a step uses the centre of the
    step before. The last layer, the prototypes, is frozen at the beginning. With multi-crop the student also sees
    `local_views`, and the teacher does not.
    """

    name: Literal["dino"] = "dino"
    temperature: Temperature = Temperature(base=0.1)
    teacher_temperature: Temperature = Temperature(base=0.07, warmup_factor=4 / 7)
    center_momentum: Share = 0.9
    """Keep-rate of the centre, the running mean of the teacher's logits."""
    local_views: Annotated[int, Field(ge=0, le=100)] = 0
    """Small crops that only the student sees (multi-crop)."""
    frozen_prototypes: Duration = "1 epochs"
    """How long the prototypes are frozen at the beginning."""

    DEFAULTS: ClassVar[dict[str, Any]] = {
        "encoder.projector": {
            "layers": 3,
            "hidden": 2048,
            "out": 256,
            "norm": "none",
            "activation": "gelu",
            "prototypes": 4096,
        }
    }

    @property
    def views(self) -> tuple[ViewKind, ...]:
        local: ViewKind = "local"
        return (*self.VIEWS, *[local] * self.local_views)

    @property
    def teacher_sights(self) -> tuple[Sight, ...]:
        return sights(range(len(self.VIEWS)))

    def check(self, trial: Trial) -> None:
        if not trial.encoder.projector.prototypes:
            raise ValueError("encoder.projector.prototypes = 0: DINO compares distributions over prototypes")

    def initial_state(self, width: int, seed: int) -> State:
        import torch

        return {"center": torch.zeros(width)}

    def loss(self, outputs: Pass) -> Tensor:
        import torch.nn.functional as F

        center, sharp = outputs.state["center"].to(outputs.targets.dtype), outputs.at(self.teacher_temperature)
        targets = F.softmax((outputs.targets - center) / sharp, dim=-1)
        logs = F.log_softmax(outputs.predictions / outputs.at(self.temperature), dim=-1)
        views = range(len(logs)), range(len(targets))
        pairs = [-(targets[t] * logs[s]).sum(-1) for t in views[1] for s in views[0] if s != t]
        return sum(pairs[1:], start=pairs[0]) / len(pairs)

    def close(self, state: State, targets: Tensor, step: int, run: Length) -> None:
        import torch

        # in float64: rounded to float32, the mean does not depend on the order of the sum
        mean = targets.mean((0, 1), dtype=torch.float64)
        state["center"].lerp_(mean.to(state["center"].dtype), 1 - self.center_momentum)

    def durations(self) -> dict[str, str]:
        return super().durations() | {"frozen_prototypes": self.frozen_prototypes}

    def frozen(self, step: int, run: Length) -> tuple[str, ...]:
        return ("fc2",) if step < steps_in(self.frozen_prototypes, run) else ()
