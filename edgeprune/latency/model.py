"""A latency model's predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgeprune.latency.shapes import Doubles, dimension_sizes, form_sizes
from edgeprune.records import Dimension, LatencyModel

MILLION = 1e6
CONVOLUTION_RANK = 3
"""Axes of a convolution's weight at least."""


def predict(model: LatencyModel, widths: Sequence[Mapping[str, int]]) -> Doubles:
    """Latency in milliseconds of the network at these widths of its groups, shape (len(widths),)."""
    total: Doubles = model.scale * operator_times(model, widths).sum(axis=0) + model.overhead_ms
    return total


def operator_times(model: LatencyModel, widths: Sequence[Mapping[str, int]]) -> Doubles:
    """Time of every operator in milliseconds, shape (operators, len(widths))."""
    sizes = form_sizes(model.forms, widths)
    dense = form_sizes(model.forms, [model.dense])[:, 0] if model.forms else np.zeros(0)
    rows = []
    for operator in model.operators:
        terms = np.array(
            [
                operator.constant_ms * MILLION,
                operator.per_mac_ns,
                operator.per_padded_mac_ns,
                operator.per_element_ns,
            ]
        )
        rows.append(terms @ features(operator.kind, operator.shapes, sizes, dense, model.block) / MILLION)
    return np.array(rows) if rows else np.zeros((0, len(widths)))


def features(
    kind: str, shapes: Sequence[Sequence[Dimension]], sizes: Doubles, dense: Doubles, block: int
) -> Doubles:
    """What an operator works on, shape (4, sets): one, multiply-adds, the same padded, padded elements."""
    tensors = [[dimension_sizes(d, sizes, dense) for d in shape] for shape in shapes]
    whole = [
        [
            in_blocks(size, block) if d.form is not None else size
            for d, size in zip(shape, tensor, strict=True)
        ]
        for shape, tensor in zip(shapes, tensors, strict=True)
    ]
    ones = np.ones(sizes.shape[1])
    rows = [ones, macs(kind, tensors), macs(kind, whole), elements(kind, whole)]
    return np.array([np.broadcast_to(row, ones.shape) for row in rows])


def in_blocks(size: Doubles, block: int) -> Doubles:
    rounded: Doubles = np.ceil(size / block) * block
    return rounded


Tensor = Sequence[Doubles]


def macs(kind: str, tensors: Sequence[Tensor]) -> Doubles:
    """Multiply-adds of convolutions and products of matrices; 0 for what does not multiply."""
    if len(tensors) < 2:  # noqa: PLR2004 - an input and an output
        return np.zeros(1)
    first, second, output = tensors[0], tensors[1], tensors[-1]
    if "Conv" in kind:
        is_weight = len(tensors) > 2 and len(second) >= CONVOLUTION_RANK  # noqa: PLR2004 - with a weight
        return product(output) * product(second[1:]) if is_weight else np.zeros(1)
    if any(word in kind for word in ("Gemm", "MatMul", "FullyConnected")):
        return product(first) * output[-1] if output else np.zeros(1)
    return np.zeros(1)


def elements(kind: str, tensors: Sequence[Tensor]) -> Doubles:
    """Entries of the tensors that it reads and writes, a convolution's weight apart."""
    weight = 1 if "Conv" in kind else None
    total: Doubles = sum(
        (product(tensor) for number, tensor in enumerate(tensors) if number != weight), np.zeros(1)
    )
    return total


def product(sizes: Tensor) -> Doubles:
    result = np.ones(1)
    for size in sizes:
        result = result * size
    return result
