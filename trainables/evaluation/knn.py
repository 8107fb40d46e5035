"""Weighted k-nearest-neighbour classification of features (Wu et al. 2018; the protocol of MoCo's and DINO's kNN scores)."""

import torch
import torch.nn.functional as F

from trainables import config as c
from trainables.evaluation import Features

CHUNK = 1024


@torch.no_grad()
def evaluate(bank: Features, queries: Features, config: "c.KNN") -> dict[str, float]:
    """Top-1 of a vote of the k most similar bank features, each with weight exp(cosine / temperature).

    Returns:
        {"knn_top1": share of queries in [0, 1]}.
    """
    classes = int(bank.labels.max()) + 1
    keys = F.normalize(bank.x, dim=1)
    k = min(config.k, len(keys))
    right = 0
    for x, labels in zip(queries.x.split(CHUNK), queries.labels.split(CHUNK), strict=True):
        similarity, index = (F.normalize(x, dim=1) @ keys.T).topk(k, dim=1)
        weights = ((similarity - 1) / config.temperature).exp()
        # a sum over one-hot votes: scatter_add_ would sum in any order on a GPU
        votes = (F.one_hot(bank.labels[index], classes).to(weights.dtype) * weights[:, :, None]).sum(1)
        right += int((votes.argmax(1) == labels).sum())
    return {"knn_top1": right / len(queries.labels)}
