"""Sequential least squares: every layer downstream of a removal is fitted anew, in the order of the graph.

A layer's inputs are those of the current network (its own predecessors already refitted), its targets what
the dense network gives on the same images; where the output goes into a residual sum, the target is what
the sum lacks, so that the layer makes up for errors of the other branch as well. Convolutions get a least-
squares map per tap (OSSCAR, arXiv 2403.12983), with padding as it is. The solution is drawn towards the
weights the layer has (ridge). Where an activation follows, only what it lets through counts (activations.py).
No labels, no gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from edgeprune.compensate.activations import Activation, Rows, activation_behind, enough_rows, improved
from edgeprune.compensate.layers import (
    Layer,
    Subject,
    Weights,
    can_unfold,
    in_turn,
    patches,
    target_rows,
    weight_rows,
)
from edgeprune.compensate.least_squares import Sums, system
from edgeprune.compensate.moments import ADDITIONS
from edgeprune.compensate.pairs import Pair, Pairs
from edgeprune.compensate.survivors import Removed

ROWS_PER_UNKNOWN, FEWEST_ROWS, ROWS_ANYWAY = 80, 20_000, 8
"""Positions that a fit looks at: for each unknown, if that is not too much work; at least; and anyway."""
WORK = 1.6e10
"""Products that are not too many."""
FEWEST_IMAGES, SPARE = 64, 4
"""Images that they come from, at least; and how many times as many positions those have."""
ROUGH_ROWS = 5_000
"""At least, of a rough fit."""


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


def refit(  # noqa: PLR0913 - keywords, each with a default
    subject: Subject,
    weights: Weights,
    removed: Removed,
    *,
    ridge: float | None = None,
    rough: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Refit:
    """Fit every layer whose inputs differ from the dense network's.

    Args:
        subject: The dense network and images.
        weights: Of the current network: removed units' entries are zero where they are read.
        removed: Units that are gone.
        ridge: See `RIDGE`; None: that, and more where images are few (`shrinkage.oas`).
        rough: Look at a fraction of the positions, and at no activation: to tell networks apart, not to keep.
        on_progress: Called with layers done and all layers.
    """
    run = _Run(subject, dict(weights), dead_inputs(subject, removed), ridge, rough=rough)
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
        *,
        rough: bool,
    ) -> None:
        self.program, self.weights, self.dead, self.ridge = subject.program, weights, dead, ridge
        self.rough = rough
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
        start = weight_rows(layer, weight).double()
        sums, kept, activation = self._gathered(layer, read)
        equations, solution = system(sums, start[:, read], self.ridge, intercept=_has_constant(layer))
        constant = sums.constants(solution) if _has_constant(layer) else None
        if activation is not None and constant is not None:
            solution, constant = improved(equations, solution, constant, kept, activation)
        mean, variance = sums.of_products(solution)
        if layer.transposed:  # over all taps
            mean, variance = _over_taps(mean, variance, outputs=weight.shape[1])
        self.moments[layer.weight] = (mean.ravel(), variance.ravel())
        whole = torch.zeros_like(start).index_copy_(1, read, solution)
        self.fitted |= self._settled(layer, whole, constant)
        self.weights |= self.fitted

    def _gathered(self, layer: Layer, read: Tensor) -> tuple[Sums, list[Rows], Activation | None]:
        """What least squares needs of a layer, and where an activation follows, rows to look at again."""
        pairs, thin = self._sample(positions(layer), most_rows(len(read), rough=self.rough))
        activation, other = self._activation(layer), self._other_branch(layer)
        if activation is None and other not in self.changed:  # the layer's own target is the same then
            other = None

        def look(pair: Pair) -> tuple[Sums, Rows | None]:
            self.pairs.go_on_(pair, layer.place)
            rows, target = self._rows(layer, other, read, thin, pair)
            self.pairs.settle_(pair)
            most = -(-enough_rows(len(read)) // len(pairs))
            return Sums.of(rows.inputs, target), rows.thinned(most) if activation else None

        found = in_turn(self.program, look, pairs)
        total, first = next(found)
        kept = [first]
        for sums, rows in found:
            total.add_(sums)
            kept.append(rows)
        return total, [rows for rows in kept if rows is not None], activation

    def _activation(self, layer: Layer) -> Activation | None:
        """What of the layer's output, or of the sum that it completes, the network cuts off."""
        if self.rough or not _has_constant(layer):
            return None
        user = next(iter(layer.node.users), None)
        if user is None or user.target not in ADDITIONS:
            return activation_behind(layer.node)
        return None if self._other_branch(layer) is None else activation_behind(user)

    def _sample(self, positions: int, most: int) -> tuple[list[Pair], int]:
        """Pieces to look at, evenly spread, and of how many of their positions one."""
        pieces, available = self.pairs.pieces, self.pairs.images
        spare = 1 if self.rough else SPARE
        images = min(available, max(FEWEST_IMAGES, -(-spare * most // positions)))
        count = -(-images * len(pieces) // available)
        places = [number * len(pieces) // count for number in range(count)]
        return [pieces[place] for place in places], max(1, positions * images // most)

    def _rows(  # a layer, what it is added to, and which positions of which images
        self, layer: Layer, other: fx.Node | None, read: Tensor, thin: int, pair: Pair
    ) -> tuple[Rows, Tensor]:
        """Rows of one piece, and the layer's own part of their goal."""
        goal, rest = pair.dense[layer.node], None
        if layer.transposed and layer.bias is not None:
            goal = goal - self.weights[layer.bias][:, None, None]
        if other is not None:
            goal, rest = goal + pair.dense[other], target_rows(layer, pair.current[other], thin)
        inputs = patches(layer, self.weights[layer.weight], pair.current[layer.source], thin)
        goal = target_rows(layer, goal, thin)
        if len(read) < inputs.shape[2]:
            inputs = inputs.index_select(2, read)
        return Rows(inputs, goal, rest), goal if rest is None else goal - rest

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
        """What the layer's output alone is added to, where that is computed already."""
        users = list(layer.node.users)
        if len(users) != 1 or users[0].target not in ADDITIONS or users[0].kwargs:
            return None
        other = next((node for node in users[0].all_input_nodes if node is not layer.node), None)
        if other is None or "val" not in other.meta:
            return None
        place = next((n for n, op in enumerate(self.program.ops) if op.node is other), layer.place)
        same = other.meta["val"].shape == layer.node.meta["val"].shape
        return other if same and place < layer.place else None


def most_rows(unknowns: int, *, rough: bool = False) -> int:
    """Positions that a fit of so many inputs and taps looks at, at most."""
    if rough:
        return max(ROUGH_ROWS, ROWS_ANYWAY * unknowns)
    wanted = min(ROWS_PER_UNKNOWN * unknowns, int(WORK / max(unknowns, 1) ** 2))
    return max(FEWEST_ROWS, ROWS_ANYWAY * unknowns, wanted)


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


def _over_taps(mean: Tensor, variance: Tensor, *, outputs: int) -> tuple[Tensor, Tensor]:
    """Mean and variance over all taps of a transposed convolution's outputs."""
    means = mean.reshape(outputs, -1)
    seconds = (variance.reshape(outputs, -1) + means**2).mean(dim=1)
    mean = means.mean(dim=1)
    return mean, (seconds - mean**2).clamp_min(0)


def _as_weight(layer: Layer, rows: Tensor, weight: Tensor) -> Tensor:
    """The inverse of `weight_rows`, in the type and memory format of the weight."""
    if layer.transposed:
        return torch.empty_like(weight).copy_(rows[0].reshape(weight.shape))
    return torch.empty_like(weight).copy_(rows.transpose(1, 2).reshape(weight.shape))
