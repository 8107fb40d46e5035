"""How the student's embeddings fill their space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from trainables.config.monitor import Curve
from trainables.learning.monitors.base import Monitor, Numbers, Watched

if TYPE_CHECKING:
    from trainables.data.images import Images


class Embedding(Monitor):
    """Effective rank, alignment and uniformity of the student's projections of the last batch.

    `trainables.learning.geometry` has the formulas.
    """

    CURVES: ClassVar[Mapping[str, Curve]] = {
        "embedding": Curve(
            "student/embedding",
            "Of the last batch's projections: effective rank in dimensions, alignment, uniformity.",
        )
    }

    def measure(self, watched: Watched, validation: Images) -> Numbers:
        import torch

        from trainables.learning import geometry

        mine = torch.cat([rows.double().flatten(1, 2) for rows in watched.projections], dim=1)
        rows = watched.shards.everyone(mine)  # [views, samples, D]
        numbers = {
            "embedding/effective_rank": geometry.effective_rank(rows[0]),
            "embedding/uniformity": geometry.uniformity(rows[0]),
        }
        if len(rows) > 1:
            numbers["embedding/alignment"] = geometry.alignment(rows[0], rows[1])
        return numbers
