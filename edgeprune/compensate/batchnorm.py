"""BatchNorm re-estimation: channels vary again as they did in the dense network; no gradients."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor

from edgeprune.compensate.layers import TINY, Layer, Program, Subject, Values, Weights, output_rows


def reestimate(subject: Subject, norms: Iterable[str], weights: Weights) -> dict[str, Tensor]:
    """New weights and biases of convolutions with a folded BatchNorm.

    Mean and standard deviation of each output channel on these images become what they are in the dense
    network on the same images, layer by layer, so that each sees what those before it give now.

    Args:
        subject: The network and images.
        norms: Weights into which a BatchNorm was folded.
        weights: Of the current network.
    """
    program, layers = subject.program, subject.layers
    run_weights = dict(weights)
    found: dict[str, Tensor] = {}
    dense, current = program.start(subject.images), program.start(subject.images)
    place = 0
    for layer in sorted((layers[name] for name in norms if name in layers), key=lambda one: one.place):
        stop = layer.place + 1
        program.advance_(dense, program.dense, place, stop)
        program.advance_(current, run_weights, place, layer.place)
        before = _moments(program, layer, dense, program.dense)
        after = _moments(program, layer, current, run_weights)
        scale = torch.sqrt(before[1] / after[1].clamp_min(TINY))
        scale = torch.where(before[1] > TINY, scale, torch.ones_like(scale))
        shift = before[0] - scale * after[0]
        assert layer.bias is not None
        weight, bias = run_weights[layer.weight], run_weights[layer.bias]
        found[layer.weight] = torch.empty_like(weight).copy_(
            weight.double() * scale.reshape(-1, *[1] * (weight.ndim - 1))
        )
        found[layer.bias] = (bias.double() * scale + shift).to(bias.dtype)
        run_weights |= found
        program.advance_(current, run_weights, layer.place, stop)
        place = stop
    return found


def _moments(program: Program, layer: Layer, pieces: list[Values], weights: Weights) -> tuple[Tensor, Tensor]:
    """Mean and variance of a layer's output channels."""
    parts = program.each(partial(_look, program, layer, weights), pieces)
    rows = sum(part[0] for part in parts)
    mean = torch.stack([part[1] for part in parts]).sum(dim=0) / rows
    return mean, (torch.stack([part[2] for part in parts]).sum(dim=0) / rows - mean**2).clamp_min(0)


def _look(program: Program, layer: Layer, weights: Weights, values: Values) -> tuple[int, Tensor, Tensor]:
    values = dict(values)
    if layer.node not in values:
        program.run_op_(values, weights=weights, place=layer.place)
    rows = output_rows(layer, values[layer.node])  # (groups, positions, outputs of a group)
    return rows.shape[1], rows.sum(dim=1).ravel().double(), rows.double().square().sum(dim=1).ravel()
