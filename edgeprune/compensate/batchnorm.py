"""BatchNorm re-estimation: channels vary again as they did in the dense network; no gradients."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial, reduce

import torch
from torch import Tensor

from edgeprune.compensate.layers import TINY, Layer, Subject, Weights, in_turn, output_rows
from edgeprune.compensate.moments import Sums
from edgeprune.compensate.pairs import Pair, Pairs


def reestimate(subject: Subject, norms: Iterable[str], weights: Weights) -> dict[str, Tensor]:
    """New weights and biases of convolutions with a folded BatchNorm.

    Mean and standard deviation of each output channel on these images become what they are in the dense
    network on the same images, layer by layer, so that each sees what those before it give now.

    Args:
        subject: The network and images.
        norms: Weights into which a BatchNorm was folded.
        weights: Of the current network.
    """
    program, run_weights = subject.program, dict(weights)
    found: dict[str, Tensor] = {}
    pairs = Pairs(subject, run_weights, frozenset())
    layers = (subject.layers[name] for name in norms if name in subject.layers)
    for layer in sorted(layers, key=lambda one: one.place):
        both = in_turn(program, partial(_look, pairs, layer), pairs.pieces)
        before, after = reduce(_added, both)
        variance, spread = before.variance(), after.variance()
        scale = torch.sqrt(variance / spread.clamp_min(TINY))
        scale = torch.where(variance > TINY, scale, torch.ones_like(scale))
        assert layer.bias is not None
        weight, bias = run_weights[layer.weight], run_weights[layer.bias]
        found[layer.weight] = torch.empty_like(weight).copy_(
            weight.double() * scale.reshape(-1, *[1] * (weight.ndim - 1))
        )
        found[layer.bias] = (bias.double() * scale + before.mean - scale * after.mean).to(bias.dtype)
        run_weights |= found
    pairs.release_()
    return found


def _look(pairs: Pairs, layer: Layer, pair: Pair) -> tuple[Sums, Sums]:
    """What a piece gives at a layer in the dense network, and in the current one."""
    pairs.go_on_(pair, layer.place)
    current = dict(pair.current)
    pairs.program.run_op_(current, weights=pairs.weights, place=layer.place)
    sums = []
    for after in (pair.dense[layer.node], current[layer.node]):
        rows = output_rows(layer, after)  # (groups, positions, outputs of a group)
        first, second = rows.sum(dim=1).double(), rows.double().square().sum(dim=1)
        sums.append(Sums(rows.shape[1], first.ravel(), second.ravel()))
    pairs.settle_(pair)
    return sums[0], sums[1]


def _added(one: tuple[Sums, Sums], other: tuple[Sums, Sums]) -> tuple[Sums, Sums]:
    return one[0] + other[0], one[1] + other[1]
