"""How embeddings fill their space: numbers without labels, for monitors and for the protocol `label_free`.

Rows are embeddings [N, D].
"""

import torch
import torch.nn.functional as F
from torch import Tensor

RIDGE = 1e-4  # of LiDAR, as in its paper


def effective_rank(rows: Tensor) -> float:
    """exp of the entropy of the singular values' shares, in [1, D] (RankMe; Garrido et al. 2023, eq. 1)."""
    return _exp_of_entropy(torch.linalg.svdvals(rows.double()))


def alignment(rows: Tensor, others: Tensor) -> float:
    """Mean squared distance of two views of the samples, at unit length, in [0, 4] (Wang and Isola 2020, alpha = 2)."""
    one, other = (F.normalize(view.double(), dim=-1) for view in (rows, others))
    return (one - other).square().sum(-1).mean().item()


def uniformity(rows: Tensor) -> float:
    """log of the mean of exp(-2 squared distance) over pairs of unit rows, in [-8, 0] (Wang and Isola 2020, t = 2)."""
    return torch.pdist(F.normalize(rows.double(), dim=-1)).square().mul(-2).exp().mean().log().item()


def lidar(views: Tensor) -> float:
    """Effective rank of the linear discriminant between samples, of views [q, N, D] (LiDAR; Thilak et al. 2023).

    The classes are the samples, whose members are their views. B is the covariance of the samples' means, W that of
    views around the mean of their sample, plus 1e-4 on its diagonal; LiDAR is exp of the entropy of the shares of
    W^(-1/2) B W^(-1/2)'s eigenvalues.
    """
    views = views.double()
    means = views.mean(0)
    centred, inner = means - means.mean(0), (views - means).flatten(0, 1)
    between = centred.T @ centred / len(centred)
    within = inner.T @ inner / len(inner) + RIDGE * torch.eye(views.shape[-1], dtype=views.dtype, device=views.device)
    lower = torch.linalg.cholesky(within)  # L^(-1) B L^(-T) has the same eigenvalues
    half = torch.linalg.solve_triangular(lower, between, upper=False)
    return _exp_of_entropy(
        torch.linalg.eigvalsh(torch.linalg.solve_triangular(lower, half.T, upper=False)).clamp(min=0)
    )


def _exp_of_entropy(values: Tensor) -> float:
    shares = values / values.sum().clamp(min=1e-300)
    return torch.special.entr(shares).sum().exp().item()
