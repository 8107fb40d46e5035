"""k-nearest-neighbour classification of features (Wu et al. 2018), as MoCo, DINO, solo-learn and EMAN report it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from trainables.config.base import Direction
from trainables.config.sections import Count, Positive
from trainables.evaluation.protocols.base import Protocol
from trainables.evaluation.scores import Output, Scores

if TYPE_CHECKING:
    from torch import Tensor

    from trainables.evaluation.subject import Features, Subject

CHUNK = 2**27  # distances in memory at a time
NEAR = 1e-5  # added to a distance before it divides


class KNN(Protocol):
    """Top-1 of a vote of the `k` training images nearest by `metric`, and of the nearest image alone (knn1_top1).

    A vote weighs exp(cosine / `temperature`), or 1 / (distance + 1e-5) with the euclidean metric, as in solo-learn.
    With `majority` all votes weigh the same, and the first of several classes with most votes wins (EMAN).
    """

    k: Count = 20
    """How many neighbours vote."""
    temperature: Positive = 0.07
    """Temperature of weighted votes by cosine. The lower it is, the more the nearest images count."""
    metric: Literal["cosine", "euclidean"] = "cosine"
    """The measure of nearness."""
    votes: Literal["weighted", "majority"] = "weighted"
    """Whether nearer neighbours count more, or all the same (EMAN)."""
    output: Output = "features"
    """Whether features of the backbone or the projector's output are compared."""

    METRICS: ClassVar[dict[str, Direction]] = {"knn_top1": "max", "knn1_top1": "max"}

    def measure(self, subject: Subject) -> Scores:
        return self.score(subject.bank(self.output), subject.queries(self.output))

    def score(self, bank: Features, queries: Features) -> Scores:
        """Returns the shares of queries in [0, 1] that the bank's votes classify correctly."""
        import torch
        import torch.nn.functional as F

        from trainables.data import progress

        classes, k = int(bank.labels.max()) + 1, min(self.k, len(bank.labels))
        keys, rows = self._comparable(bank.x), max(1, CHUNK // len(bank.labels))
        right = torch.zeros(2, dtype=torch.int64, device=keys.device)
        pieces = list(zip(queries.x.split(rows), queries.labels.split(rows), strict=True))
        for x, labels in progress.steps("pieces of the queries", pieces):
            weights, nearest = self._nearest(self._comparable(x), keys, k)
            answers = bank.labels[nearest]
            # a sum over one-hot votes: scatter_add_ would sum in any order on a GPU
            votes = (F.one_hot(answers, classes).to(weights.dtype) * weights[:, :, None]).sum(1)
            right += torch.stack([votes.argmax(1) == labels, answers[:, 0] == labels]).sum(1)
        return {name: count / len(queries.labels) for name, count in zip(self.METRICS, right.tolist(), strict=True)}

    def _comparable(self, x: Tensor) -> Tensor:
        """Returns unit rows, whose products are cosines, or for distances the rows in float64.

        In float32, differences of squares would lose small distances.
        """
        import torch.nn.functional as F

        return F.normalize(x, dim=1) if self.metric == "cosine" else x.double()

    def _nearest(self, x: Tensor, keys: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Returns the weights of the votes and the indices of their images: [N, k] each, the nearest first."""
        import torch

        if self.metric == "cosine":
            similarity, index = (x @ keys.T).topk(k, dim=1)
            # relative to the nearest, whose vote is 1: relative to a cosine of 1 all votes are 0 at small temperatures
            weights = ((similarity - similarity[:, :1]) / self.temperature).exp()
        else:
            distance, index = torch.cdist(x, keys).topk(k, dim=1, largest=False)
            weights = 1 / (distance + NEAR)
        return (torch.ones_like(weights) if self.votes == "majority" else weights), index
