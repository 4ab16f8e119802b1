"""Sequential least squares: every layer downstream of a removal is fitted anew, in the order of the graph.

A layer's inputs are those of the current network (its own predecessors already refitted), its targets what
the dense network gives on the same images; where the output goes into a residual sum, the target is what
the sum lacks, so that the layer makes up for errors of the other branch as well. Convolutions get a least-
squares map per tap (OSSCAR, arXiv 2403.12983), with padding as it is. The solution is drawn towards the
weights the layer has (ridge). No labels, no gradients.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial, reduce
from typing import Self

import torch
from torch import Tensor, fx

from edgeprune.compensate.layers import (
    TINY,
    Layer,
    Subject,
    Weights,
    can_unfold,
    in_turn,
    patches,
    target_rows,
    weight_rows,
)
from edgeprune.compensate.moments import ADDITIONS, products
from edgeprune.compensate.pairs import Pair, Pairs
from edgeprune.compensate.shrinkage import oas
from edgeprune.compensate.survivors import Removed

RIDGE = 1e-3
"""Pull towards the weights there are, as a share of the mean variance of what the layer reads."""
ROWS_PER_UNKNOWN, FEWEST_ROWS = 8, 20_000
"""Positions that one fit looks at, at most: beyond them the solution hardly changes."""
FEWEST_IMAGES, SPARE = 64, 4
"""Images that they come from, at least; and how many times as many positions those have."""
MOST_RIDGES = 10


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Refit:
    """The layers fitted anew.

    Attributes:
        weights: Weights and biases of the refitted layers, by name.
        moments: Weight of a layer -> mean and variance of weight * inputs, without bias, shape (outputs,):
            what a BatchNorm behind it would find.
    """

    weights: dict[str, Tensor]
    moments: dict[str, tuple[Tensor, Tensor]]


def refit(
    subject: Subject,
    weights: Weights,
    removed: Removed,
    *,
    ridge: float | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Refit:
    """Fit every layer whose inputs differ from the dense network's.

    Args:
        subject: The dense network and images.
        weights: Of the current network: removed units' entries are zero where they are read.
        removed: Units that are gone.
        ridge: See `RIDGE`; None: that, and more where images are few (`shrinkage.oas`).
        on_progress: Called with layers done and all layers.
    """
    run = _Run(subject, dict(weights), dead_inputs(subject, removed), ridge)
    ordered = sorted(subject.layers.values(), key=lambda found: found.place)
    todo = [layer for layer in ordered if run.fits(layer)]
    for done, layer in enumerate(todo):
        run.fit_(layer)
        on_progress(done + 1, len(todo))
    run.pairs.release_()
    return Refit(weights=run.fitted, moments=run.moments)


def dead_inputs(subject: Subject, removed: Removed) -> dict[str, list[tuple[int, Tensor]]]:
    """Weight -> (axis, entries) that are no longer read."""
    dead: dict[str, list[tuple[int, Tensor]]] = {}
    for group in subject.groups:
        units = removed.get(group.name, ())
        for slot in group.slots if units else ():
            if slot.consumer:
                gone = torch.from_numpy(slot.indices[list(units)].ravel())
                gone = gone.to(subject.program.dense[slot.parameter].device)
                dead.setdefault(slot.parameter, []).append((slot.axis, gone))
    return dead


class _Run:
    """The dense and the current network on their way, the latter refitted as it goes."""

    def __init__(
        self,
        subject: Subject,
        weights: dict[str, Tensor],
        dead: Mapping[str, list[tuple[int, Tensor]]],
        ridge: float | None,
    ) -> None:
        self.program, self.weights, self.dead, self.ridge = subject.program, weights, dead, ridge
        self.changed = self._changed()
        self.pairs = Pairs(subject, weights, self.changed)
        self.fitted: dict[str, Tensor] = {}
        self.moments: dict[str, tuple[Tensor, Tensor]] = {}

    def _changed(self) -> frozenset[fx.Node]:
        """Ops that give something else in the current network."""
        changed: set[fx.Node] = set()
        for op in self.program.ops:
            reads = op.node.all_input_nodes
            if any(n in changed or (n.op == "get_attr" and str(n.target) in self.dead) for n in reads):
                changed.add(op.node)
        return frozenset(changed)

    def fits(self, layer: Layer) -> bool:
        return layer.node in self.changed and can_unfold(layer, self.program.dense[layer.weight])

    def fit_(self, layer: Layer) -> None:
        """Give a layer the weight and bias with which it comes closest to its target."""
        weight = self.weights[layer.weight]
        read = _read_inputs(layer, weight, self.dead.get(layer.weight, []))
        pairs, thin = self._sample(positions(layer), max(FEWEST_ROWS, ROWS_PER_UNKNOWN * len(read)))
        look = partial(self._look, layer, read, thin)
        sums = reduce(operator.iadd, in_turn(self.program, look, pairs))
        start = weight_rows(layer, weight).double()
        solution = _solve(sums, start[:, read], self.ridge, intercept=_has_constant(layer))
        mean, variance = _of_products(sums, solution)
        if layer.transposed:  # over all taps
            mean, variance = _over_taps(mean, variance, outputs=weight.shape[1])
        self.moments[layer.weight] = (mean.ravel(), variance.ravel())
        whole = torch.zeros_like(start).index_copy_(1, read, solution)
        constant = sums.outputs / sums.rows - mean if _has_constant(layer) else None
        self.fitted |= self._settled(layer, whole, constant)
        self.weights |= self.fitted

    def _sample(self, positions: int, most: int) -> tuple[list[Pair], int]:
        """Pieces to look at, evenly spread, and of how many of their positions one."""
        pieces, available = self.pairs.pieces, self.pairs.images
        images = min(available, max(FEWEST_IMAGES, -(-SPARE * most // positions)))
        count = -(-images * len(pieces) // available)
        places = [number * len(pieces) // count for number in range(count)]
        return [pieces[place] for place in places], max(1, positions * images // most)

    def _look(self, layer: Layer, read: Tensor, thin: int, pair: Pair) -> _Sums:
        """What one piece adds to the least squares of a layer."""
        self.pairs.go_on_(pair, layer.place)
        target = pair.dense[layer.node]
        if layer.transposed and layer.bias is not None:
            target = target - self.weights[layer.bias][:, None, None]
        if (other := self._other_branch(layer)) is not None:
            target = target + pair.dense[other] - pair.current[other]
        inputs = patches(layer, self.weights[layer.weight], pair.current[layer.source], thin)
        self.pairs.settle_(pair)
        if len(read) < inputs.shape[2]:
            inputs = inputs.index_select(2, read)
        return _sums(inputs, target_rows(layer, target, thin))

    def _settled(self, layer: Layer, rows: Tensor, constant: Tensor | None) -> dict[str, Tensor]:
        """The weight and bias of a layer; an output that is gone (the width of a head) stays gone."""
        weight = self.weights[layer.weight]
        settled = {layer.weight: _as_weight(layer, rows, weight)}
        if layer.bias is not None and constant is not None:
            settled[layer.bias] = constant.ravel().to(weight.dtype)
        for name, value in settled.items():
            for axis, entries in self.dead.get(name, []):
                value.index_fill_(axis, entries, 0.0)
        return settled

    def _other_branch(self, layer: Layer) -> fx.Node | None:
        """What the layer's output alone is added to, where that is computed already and has changed."""
        users = list(layer.node.users)
        if len(users) != 1 or users[0].target not in ADDITIONS or users[0].kwargs:
            return None
        other = next((node for node in users[0].all_input_nodes if node is not layer.node), None)
        if other is None or other not in self.changed or "val" not in other.meta:
            return None
        place = next((n for n, op in enumerate(self.program.ops) if op.node is other), layer.place)
        same = other.meta["val"].shape == layer.node.meta["val"].shape
        return other if same and place < layer.place else None


@dataclass(slots=True, eq=False)
class _Sums:
    """What least squares needs, per group of the convolution; of the inputs that are still read."""

    rows: int
    gram: Tensor
    cross: Tensor
    inputs: Tensor
    outputs: Tensor

    def __iadd__(self, other: _Sums) -> Self:
        self.rows += other.rows
        self.gram += other.gram
        self.cross += other.cross
        self.inputs += other.inputs
        self.outputs += other.outputs
        return self


def _sums(inputs: Tensor, targets: Tensor) -> _Sums:
    """Products about the piece's own mean, in single precision, and the rest in double: nothing cancels."""
    rows = inputs.shape[1]
    mean_in, mean_out = inputs.mean(dim=1, keepdim=True), targets.mean(dim=1, keepdim=True)
    around = inputs - mean_in
    mean_in, mean_out = mean_in.double(), mean_out.double()
    return _Sums(
        rows,
        products(around).double().baddbmm_(rows * mean_in.transpose(1, 2), mean_in),
        (around.transpose(1, 2) @ targets).double().baddbmm_(rows * mean_in.transpose(1, 2), mean_out),
        rows * mean_in[:, 0],
        rows * mean_out[:, 0],
    )


def _has_constant(layer: Layer) -> bool:
    """Whether its bias can be fitted; each tap of a transposed convolution would need its own."""
    return layer.bias is not None and not layer.transposed


def positions(layer: Layer) -> int:
    """At which the weight is multiplied, of one image."""
    shape = (layer.source if layer.transposed else layer.node).meta["val"].shape
    return int(shape[2:].numel() if layer.stride else shape[1:-1].numel())


def _read_inputs(layer: Layer, weight: Tensor, dead: list[tuple[int, Tensor]]) -> Tensor:
    """Places in the rows of `weight_rows` that are still read; the same inputs leave in every group."""
    alive = torch.ones_like(weight, dtype=torch.bool)
    for axis, entries in dead:
        if axis == layer.axis:
            alive.index_fill_(axis, entries, value=False)
    return weight_rows(layer, alive)[0, :, 0].nonzero().ravel()


def _solve(sums: _Sums, start: Tensor, ridge: float | None, *, intercept: bool) -> Tensor:
    """Least squares drawn towards `start`, shape (groups, inputs * taps, outputs)."""
    gram, cross = sums.gram / sums.rows, sums.cross / sums.rows
    if intercept:
        inputs, outputs = sums.inputs / sums.rows, sums.outputs / sums.rows
        gram -= inputs[:, :, None] * inputs[:, None, :]
        cross -= inputs[:, :, None] * outputs[:, None, :]
    share = oas(gram, sums.rows).clamp_min(RIDGE) if ridge is None else ridge
    pull = share * gram.diagonal(dim1=1, dim2=2).mean(dim=1).clamp_min(TINY)
    return start + torch.cholesky_solve(cross - gram @ start, _factor(gram, pull))


def _of_products(sums: _Sums, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of inputs times `rows`, shape (groups, outputs)."""
    mean = (rows * (sums.inputs / sums.rows)[..., None]).sum(dim=1)
    second = (rows * (sums.gram @ rows)).sum(dim=1) / sums.rows
    return mean, (second - mean**2).clamp_min(0)


def _over_taps(mean: Tensor, variance: Tensor, *, outputs: int) -> tuple[Tensor, Tensor]:
    """Mean and variance over all taps of a transposed convolution's outputs."""
    means = mean.reshape(outputs, -1)
    seconds = (variance.reshape(outputs, -1) + means**2).mean(dim=1)
    mean = means.mean(dim=1)
    return mean, (seconds - mean**2).clamp_min(0)


def _factor(gram: Tensor, pull: Tensor) -> Tensor:
    """Cholesky factor of the Gram matrices with their ridge; more of it where rounding asks for that."""
    identity = torch.eye(gram.shape[-1]).to(gram)
    for _ in range(MOST_RIDGES):
        factor: Tensor
        factor, failed = torch.linalg.cholesky_ex(gram + pull[:, None, None] * identity)
        if not failed.any():
            return factor
        pull = torch.where(failed > 0, 10 * pull, pull)
    return torch.diag_embed(gram.new_full(gram.shape[:-1], float("inf")))  # keep the weights


def _as_weight(layer: Layer, rows: Tensor, weight: Tensor) -> Tensor:
    """The inverse of `weight_rows`, in the type and memory format of the weight."""
    if layer.transposed:
        return torch.empty_like(weight).copy_(rows[0].reshape(weight.shape))
    return torch.empty_like(weight).copy_(rows.transpose(1, 2).reshape(weight.shape))
