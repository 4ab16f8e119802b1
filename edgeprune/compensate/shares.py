"""What channels that leave are predicted from: shares of those that stay, and constants (METHODS §3).

All tensors have the groups of channels that a layer reads in front: 1, but for grouped convolutions, whose
outputs see the channels of their own group alone. The same places leave in all groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeprune.compensate.layers import TINY
from edgeprune.compensate.moments import Measured, Moments
from edgeprune.compensate.shrinkage import oas

RIDGE = 1e-3
"""λ as a share of the mean variance of the channels."""


@dataclass(frozen=True, slots=True, eq=False)
class Shares:
    """What is left of some channels of one tensor when they leave: shares for the others, and constants."""

    leaving: Tensor
    """Places within a group, shape (leaving,)."""
    shares: Tensor
    """B, shape (groups, leaving, C); zero for the leaving themselves."""
    constants: Tensor
    """c, shape (groups, leaving)."""
    precision: Tensor
    """Ω without them, shape (groups, C, C)."""
    mean: Tensor
    """Of all channels, shape (groups, C)."""

    @property
    def about_zero(self) -> Tensor:
        """B where no constant can be given: c is given in shares as well, as far as they predict a 1.

        A bias serves all taps of a transposed convolution alike, and each position is reached by few of them.
        """
        ones = self.precision.abs().sum(dim=-1) == 1.0  # channels that are gone: rows of the identity
        mean = torch.where(ones, 0.0, self.mean)
        predicts = _times(self.precision, mean)
        scale = 1 + (mean * predicts).sum(dim=-1)
        return self.shares + self.constants[..., None] * (predicts / scale[:, None])[:, None]

    @classmethod
    def of(cls, precision_: Tensor, leaving: Tensor, mean: Tensor, *, shared: bool) -> Shares:
        columns = precision_[..., leaving]
        inner = torch.linalg.solve(columns[:, leaving], columns.mT)
        shares = -inner if shared else torch.zeros_like(inner)
        shares[..., leaving] = 0.0
        rest = precision_ - columns @ inner
        constants = mean[:, leaving] - _times(shares, mean)
        return cls(leaving, shares, constants, _without_rows(rest, leaving), mean)


def about_zero(measured: Measured) -> Measured:
    """Second moments about zero: least squares without a constant."""
    sources = {
        read: Moments(torch.zeros_like(found.mean), found.second, found.rows)
        for read, found in measured.sources.items()
    }
    return Measured(sources, measured.energy)


def precision(moments: Moments, dead: Sequence[Tensor], *, wary: bool = False) -> Tensor:
    """Inverse of the covariance of the living channels with a ridge; the identity for the dead ones.

    `wary`: with the ridge that few images ask for, so that what they happen to explain counts for little.
    """
    covariance = moments.covariance
    alive = torch.ones_like(covariance[0, 0], dtype=torch.bool)
    for channels in dead:
        alive[channels] = False
    places = alive.nonzero().ravel()
    inner = covariance[:, places][:, :, places]
    share = oas(inner, moments.rows).clamp_min(RIDGE) if wary and len(places) else RIDGE
    ridge = share * inner.diagonal(dim1=-2, dim2=-1).mean(dim=-1).clamp_min(TINY)
    unit = torch.eye(len(places)).to(inner)
    inverse = torch.linalg.inv(inner + ridge[:, None, None] * unit)
    result = torch.eye(len(alive)).to(covariance).repeat(len(covariance), 1, 1)
    result[:, places[:, None], places[None, :]] = inverse
    return result


def _times(matrices: Tensor, vectors: Tensor) -> Tensor:
    """A matrix and a vector for each group."""
    return (matrices @ vectors[..., None]).squeeze(-1)


def _without_rows(matrices: Tensor, leaving: Tensor) -> Tensor:
    """The identity where channels have left."""
    matrices[:, leaving, :] = 0.0
    matrices[:, :, leaving] = 0.0
    matrices[:, leaving, leaving] = 1.0
    return matrices
