"""BYOL: the student predicts the teacher's projection of the other view (Grill et al. 2020, eq. 2)."""

import torch.nn.functional as F
from torch import Tensor

VIEWS = 2
PREDICTOR = True


def loss(predictions: Tensor, targets: Tensor) -> Tensor:
    """Sum over both directions of 2 - 2 cos(prediction, target): a loss in [0, 8] for each sample.

    Args:
        predictions: of the student, [2, B, D].
        targets: of the teacher, [2, B, D], without gradient.

    Returns:
        [B].
    """
    return (2 - 2 * F.cosine_similarity(predictions, targets.flip(0), dim=-1)).sum(0)
