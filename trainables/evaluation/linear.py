"""Offline linear protocol: a linear classifier on frozen features, trained by SGD with a cosine schedule."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables import config as c
from trainables import keyed, schedules
from trainables.evaluation import Features


def score(classifier: nn.Linear, queries: Features) -> dict[str, float]:
    """Top-1 and top-5 of a classifier of features.

    Returns:
        {"linear_top1": ..., "linear_top5": ...}, shares of queries in [0, 1].
    """
    with torch.no_grad():
        ranked = classifier(queries.x).topk(min(5, classifier.out_features), dim=1).indices
    hits = ranked == queries.labels[:, None]
    return {"linear_top1": hits[:, 0].float().mean().item(), "linear_top5": hits.any(1).float().mean().item()}


def train(bank: Features, config: "c.LinearProbe", seed: int = 0) -> nn.Linear:
    """A classifier of raw features [N, F], trained on standardised ones (zero mean and unit variance over the bank)."""
    mean, std = bank.x.mean(0), bank.x.std(0).clamp(min=1e-6)
    x, count = (bank.x - mean) / std, len(bank.labels)
    classes, batch = int(bank.labels.max()) + 1, min(config.batch_size, count)
    weight = torch.zeros(classes, x.shape[1], device=x.device, requires_grad=True)
    bias = torch.zeros(classes, device=x.device, requires_grad=True)
    optimizer = torch.optim.SGD([weight, bias], lr=config.lr, momentum=0.9, weight_decay=config.weight_decay)
    per_epoch = count // batch
    for step in range(config.epochs * per_epoch):
        epoch, position = divmod(step, per_epoch)
        if position == 0:
            order = keyed.permutation(count, seed, epoch, "linear").to(x.device)
        index = order[position * batch : (position + 1) * batch]
        optimizer.param_groups[0]["lr"] = schedules.value("cosine", config.lr, 0.0, step, config.epochs * per_epoch)
        optimizer.zero_grad()
        F.cross_entropy(F.linear(x[index], weight, bias), bank.labels[index]).backward()
        optimizer.step()
    return _for_raw_features(weight.detach(), bias.detach(), mean, std)


def _for_raw_features(weight: Tensor, bias: Tensor, mean: Tensor, std: Tensor) -> nn.Linear:
    classifier = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device)
    with torch.no_grad():
        classifier.weight.copy_(weight / std)
        classifier.bias.copy_(bias - (weight / std) @ mean)
    return classifier
