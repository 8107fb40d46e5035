"""k-nearest-neighbour classification of features (Wu et al. 2018; the protocols of MoCo's, DINO's, solo-learn's and EMAN's kNN scores)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from trainables.config.base import Direction
from trainables.config.sections import Count, Positive
from trainables.evaluation.protocols.base import Protocol
from trainables.evaluation.scores import Output, Scores

if TYPE_CHECKING:
    from torch import Tensor

    from trainables.evaluation.subject import Features, Subject

CHUNK = 2**27  # distances that are held at a time
NEAR = 1e-5  # what is added to a distance before it divides


class KNN(Protocol):
    """Top-1 of a vote of the `k` training images nearest by `metric`, and of the nearest alone (knn1_top1).

    A vote weighs exp(cosine / `temperature`), or 1 / (distance + 1e-5) where the metric is euclidean, as in solo-learn; or they weigh the
    same, for a `majority`: EMAN's, the first class where several have it.
    """

    k: Count = 20
    """How many neighbours vote."""
    temperature: Positive = 0.07
    """Of weighted votes by cosine: the lower, the more the nearest count."""
    metric: Literal["cosine", "euclidean"] = "cosine"
    """What nearest means."""
    votes: Literal["weighted", "majority"] = "weighted"
    """Whether nearer neighbours count more, or all the same (EMAN)."""
    output: Output = "features"
    """Whether features of the backbone or the projector's output are compared."""

    METRICS: ClassVar[dict[str, Direction]] = {"knn_top1": "max", "knn1_top1": "max"}

    def measure(self, subject: Subject) -> Scores:
        return self.score(subject.bank(self.output), subject.queries(self.output))

    def score(self, bank: Features, queries: Features) -> Scores:
        """Shares of queries in [0, 1] that are classified by a bank as they are labelled."""
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
        """Rows whose products are cosines; or as they are, in float64, for in float32 differences of squares lose small distances."""
        import torch.nn.functional as F

        return F.normalize(x, dim=1) if self.metric == "cosine" else x.double()

    def _nearest(self, x: Tensor, keys: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Weights of the votes, and whose they are: [N, k] each, the nearest first."""
        import torch

        if self.metric == "cosine":
            similarity, index = (x @ keys.T).topk(k, dim=1)
            # relative to the nearest, whose vote is 1: relative to a cosine of 1 all votes are 0 at small temperatures
            weights = ((similarity - similarity[:, :1]) / self.temperature).exp()
        else:
            distance, index = torch.cdist(x, keys).topk(k, dim=1, largest=False)
            weights = 1 / (distance + NEAR)
        return (torch.ones_like(weights) if self.votes == "majority" else weights), index
