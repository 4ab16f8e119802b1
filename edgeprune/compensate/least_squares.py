"""Normal equations of one layer, summed up piece by piece, and their solution with a ridge.

Rows are what the weight is multiplied with, and what should come out; see `layers.patches`. Everything is per
group of a grouped convolution, which comes first in all shapes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgeprune.compensate.layers import TINY
from edgeprune.compensate.moments import products
from edgeprune.compensate.shrinkage import oas

RIDGE = 1e-3
"""Pull towards the weights there are, as a share of the mean variance of what the layer reads."""
MOST_RIDGES = 10


@dataclass(slots=True, eq=False)
class Sums:
    """What least squares needs, of the inputs that are still read."""

    rows: int
    gram: Tensor
    cross: Tensor
    inputs: Tensor
    outputs: Tensor

    @classmethod
    def of(cls, inputs: Tensor, targets: Tensor) -> Sums:
        """Products about the piece's own mean in single precision, the rest in double: nothing cancels."""
        rows = inputs.shape[1]
        mean_in, mean_out = inputs.mean(dim=1, keepdim=True), targets.mean(dim=1, keepdim=True)
        around = inputs - mean_in
        mean_in, mean_out = mean_in.double(), mean_out.double()
        return cls(
            rows,
            products(around).double().baddbmm_(rows * mean_in.transpose(1, 2), mean_in),
            (around.transpose(1, 2) @ targets).double().baddbmm_(rows * mean_in.transpose(1, 2), mean_out),
            rows * mean_in[:, 0],
            rows * mean_out[:, 0],
        )

    def add_(self, other: Sums) -> None:
        """Become those of both."""
        self.rows += other.rows
        self.gram += other.gram
        self.cross += other.cross
        self.inputs += other.inputs
        self.outputs += other.outputs

    def constants(self, weights: Tensor) -> Tensor:
        """What outputs lack of their targets in the mean, shape (groups, outputs)."""
        return self.outputs / self.rows - self._mean(weights)

    def _mean(self, weights: Tensor) -> Tensor:
        return (weights * (self.inputs / self.rows)[..., None]).sum(dim=1)

    def of_products(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of inputs times weights, shape (groups, outputs)."""
        mean = self._mean(weights)
        second = (weights * (self.gram @ weights)).sum(dim=1) / self.rows
        return mean, (second - mean**2).clamp_min(0)


@dataclass(frozen=True, slots=True, eq=False)
class System:
    """Turns what a layer gets wrong into what its weights should change by.

    Attributes:
        start: The weights that the solution is drawn towards, shape (groups, inputs * taps, outputs).
        mean: Of the inputs, shape (groups, inputs * taps).
        pull: How strongly, shape (groups,).
        factor: Cholesky factor of the covariance (without a constant, the Gram matrix) with its ridge.
    """

    start: Tensor
    mean: Tensor
    pull: Tensor
    factor: Tensor

    def step(self, cross: Tensor, error: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """What to add to weights and constants.

        Args:
            cross: Mean of inputs times what is missing of the targets, shape of the weights.
            error: Mean of what is missing, shape (groups, outputs).
            weights: Those there are, with which it is missing.
        """
        around = cross - self.mean[:, :, None] * error[:, None, :]
        away = self.pull[:, None, None] * (weights - self.start)
        change = torch.cholesky_solve(around - away, self.factor)
        return change, error - (change * self.mean[..., None]).sum(dim=1)


def system(sums: Sums, start: Tensor, ridge: float | None, *, intercept: bool) -> tuple[System, Tensor]:
    """The normal equations, and the linear solution.

    Args:
        sums: Of all pieces.
        start: See `System`.
        ridge: See `RIDGE`; None: that, and more where images are few (`shrinkage.oas`).
        intercept: Whether each output has a constant.
    """
    gram, cross = sums.gram / sums.rows, sums.cross / sums.rows
    mean = sums.inputs / sums.rows
    if intercept:
        gram -= mean[:, :, None] * mean[:, None, :]
        cross -= mean[:, :, None] * (sums.outputs / sums.rows)[:, None, :]
    share = oas(gram, sums.rows).clamp_min(RIDGE) if ridge is None else ridge
    pull = share * gram.diagonal(dim1=1, dim2=2).mean(dim=1).clamp_min(TINY)
    factor, pull = _factor(gram, pull)
    return System(start, mean, pull, factor), start + torch.cholesky_solve(cross - gram @ start, factor)


def _factor(gram: Tensor, pull: Tensor) -> tuple[Tensor, Tensor]:
    """Cholesky factor of the Gram matrices with their ridge, and that: more where rounding asks for more."""
    identity = torch.eye(gram.shape[-1]).to(gram)
    for _ in range(MOST_RIDGES):
        factor: Tensor
        factor, failed = torch.linalg.cholesky_ex(gram + pull[:, None, None] * identity)
        if not failed.any():
            return factor, pull
        pull = torch.where(failed > 0, 10 * pull, pull)
    return torch.diag_embed(gram.new_full(gram.shape[:-1], float("inf"))), pull  # keep the weights
