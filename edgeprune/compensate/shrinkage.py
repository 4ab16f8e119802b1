"""How far a covariance from few samples is drawn towards a multiple of the identity."""

from __future__ import annotations

import torch
from torch import Tensor

TINY = 1e-30
MOST = 0.99


def oas(covariance: Tensor, rows: int) -> Tensor:
    """Oracle approximating shrinkage r in [0, 1] (Chen et al. 2010), as a ridge: r / (1 - r).

    A ridge of this share of the mean variance predicts about as well on other samples as can be had: next to
    nothing with many samples, as much as the variance itself with fewer samples than channels.

    Args:
        covariance: Shape (..., p, p).
        rows: Samples that it was taken from.
    """
    p = covariance.shape[-1]
    trace = covariance.diagonal(dim1=-2, dim2=-1).sum(dim=-1)
    squares = covariance.square().sum(dim=(-2, -1))
    top = (1 - 2 / p) * squares + trace**2
    bottom = (rows + 1 - 2 / p) * (squares - trace**2 / p)
    share = torch.where(bottom > TINY, top / bottom.clamp_min(TINY), torch.zeros_like(top))
    share = share.clamp(0, MOST)
    return share / (1 - share)
