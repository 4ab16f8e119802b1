"""Fits that count only what the activation behind a layer lets through.

Least squares ask a layer for the dense network's outputs as they are, but a ReLU makes zeros of all that are
below zero: where the dense network is there, anything below serves as well. So the target y of an output ŷ
becomes, anew in each round, min(ŷ, low) where y ≤ low, max(ŷ, high) where y ≥ high (ReLU6), and y elsewhere.
Each round minimises an upper bound of a convex loss that touches it at ŷ, with the same normal equations, so
that none makes the fit worse on the rows that these are made of (after the nonlinear reconstruction of Zhang
et al., arXiv 1505.06798, §3.2, which relaxes towards it with a penalty instead).

Of any other activation g (GELU, SiLU, ...) the loss is ‖g(y) - g(ŷ)‖², of what the network reads. It is not
convex; a round goes down its slope, g'(ŷ)(g(y) - g(ŷ)), in the metric of the same normal equations, and asks
of no output for more than y - ŷ, with which the round would be that of least squares. Where g is nowhere as
steep as 1 (sigmoid) it is scaled up to that. Our reconstruction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, fx

from edgeprune.compensate.layers import arguments_of, sampled
from edgeprune.compensate.least_squares import System

aten = torch.ops.aten
RELUS = (aten.relu.default, aten.relu_.default)
CLAMPS = (aten.hardtanh.default, aten.hardtanh_.default, aten.clamp.default, aten.clamp_.default)
SMOOTH = (
    aten.gelu.default,
    aten.silu.default,
    aten.hardswish.default,
    aten.mish.default,
    aten.elu.default,
    aten.leaky_relu.default,
    aten.softplus.default,
    aten.sigmoid.default,
    aten.hardsigmoid.default,
    aten.tanh.default,
)
"""Other functions of one value, some with a bend."""
ROUNDS = 3
PACE = 1.7
"""A round goes this much further than its bound's minimum: below 2 none makes that worse, and fewer do."""
ROWS_PER_UNKNOWN, FEWEST_ROWS = 100, 5_000
"""Rows that rounds look at: with many times fewer they fit those instead of the network."""


class Activation(Protocol):
    """What stands between a layer and whatever reads it."""

    def missing(self, goal: Tensor, now: Tensor) -> Tensor:
        """How far outputs should move for the activation to give what it gives of the goal, shape of both."""
        ...


@dataclass(frozen=True, slots=True)
class Clamp:
    """Values below `low` count as `low`, those above `high` as `high`."""

    low: float
    high: float

    def missing(self, goal: Tensor, now: Tensor) -> Tensor:
        """Nothing where the clamp cuts off both."""
        missing = torch.where(goal <= self.low, (self.low - now).clamp_max_(0), goal - now)
        if self.high < float("inf"):
            missing = torch.where(goal >= self.high, (self.high - now).clamp_min_(0), missing)
        return missing


@dataclass(frozen=True, slots=True, eq=False)
class Smooth:
    """Any other function of one value.

    Attributes:
        function: What it makes of a tensor.
        steepest: Its steepest slope.
    """

    function: Callable[[Tensor], Tensor]
    steepest: float

    @classmethod
    def of(cls, function: Callable[[Tensor], Tensor]) -> Smooth:
        """Looks at the function where activations bend."""
        places = torch.linspace(-8, 8, 1601, dtype=torch.float64)
        slopes = function(places).diff() / places.diff()
        return cls(function, float(slopes.abs().max()))

    def missing(self, goal: Tensor, now: Tensor) -> Tensor:
        """Down the slope of the loss, at most as far as to the goal."""
        with torch.enable_grad():
            place = now.detach().requires_grad_()
            read = self.function(place)
            (slope,) = torch.autograd.grad(read.sum(), place)
        step = slope * (self.function(goal) - read.detach()) / min(self.steepest, 1.0) ** 2
        most = (goal - now).abs_()
        return step.clamp_(-most, most)


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Of one piece: what the weight is multiplied with, and what the activation reads.

    Attributes:
        inputs: Shape (groups, rows, inputs * taps).
        goal: What the activation reads in the dense network, shape (groups, rows, outputs).
        rest: What the layer's output is added to before that, in the current network; None: nothing.
    """

    inputs: Tensor
    goal: Tensor
    rest: Tensor | None

    def thinned(self, most: int) -> Rows:
        """About so many of the rows, without keeping the others."""
        thin = max(1, self.inputs.shape[1] // max(most, 1))
        rest = None if self.rest is None else sampled(self.rest, thin, axis=1).contiguous()
        inputs, goal = (sampled(each, thin, axis=1).contiguous() for each in (self.inputs, self.goal))
        return Rows(inputs, goal, rest)


def activation_behind(node: fx.Node) -> Activation | None:
    """The activation that alone reads a value."""
    reader = next(iter(node.users)) if len(node.users) == 1 else None
    if reader is None:
        return None
    if reader.target in RELUS:
        return Clamp(0.0, float("inf"))
    if reader.target in SMOOTH:
        return _smooth(reader)
    if reader.target not in CLAMPS:
        return None
    given = arguments_of(reader)
    hardtanh = reader.target in CLAMPS[:2]
    low = given.get("min_val", -1.0) if hardtanh else given.get("min")
    high = given.get("max_val", 1.0) if hardtanh else given.get("max")
    ends = [float("-inf") if low is None else low, float("inf") if high is None else high]
    numbers = [float(end) for end in ends if isinstance(end, int | float)]
    return Clamp(*numbers) if len(numbers) == len(ends) else None


def _smooth(reader: fx.Node) -> Smooth:
    op = reader.target
    assert isinstance(op, torch._ops.OpOverload)

    def function(values: Tensor) -> Tensor:
        found: Tensor = op(values, *reader.args[1:], **reader.kwargs)
        return found

    return Smooth.of(function)


def enough_rows(unknowns: int) -> int:
    """That rounds look at, for so many inputs and taps."""
    return max(FEWEST_ROWS, ROWS_PER_UNKNOWN * unknowns)


def improved(
    system: System, weights: Tensor, constants: Tensor, pieces: Sequence[Rows], activation: Activation
) -> tuple[Tensor, Tensor]:
    """Weights and constants with which the activation comes closer to the dense network's.

    Args:
        system: The layer's normal equations.
        weights: Linear solution, shape (groups, inputs * taps, outputs), float64.
        constants: Its constants, shape (groups, outputs).
        pieces: Rows to look at.
        activation: What stands behind the layer.
    """
    number = sum(piece.inputs.shape[1] for piece in pieces)
    for _ in range(ROUNDS):
        cross, error = torch.zeros_like(weights), torch.zeros_like(constants)
        for piece in pieces:
            missing = _missing(piece, weights, constants, activation)
            cross += (piece.inputs.transpose(1, 2) @ missing).double()
            error += missing.sum(dim=1).double()
        change, shift = system.step(cross / number, error / number, weights)
        weights, constants = weights + PACE * change, constants + PACE * shift
    return weights, constants


def _missing(piece: Rows, weights: Tensor, constants: Tensor, activation: Activation) -> Tensor:
    """What the outputs lack of their targets."""
    dtype = piece.inputs.dtype
    now = torch.baddbmm(constants.to(dtype)[:, None, :], piece.inputs, weights.to(dtype))
    if piece.rest is not None:
        now += piece.rest
    return activation.missing(piece.goal, now)
