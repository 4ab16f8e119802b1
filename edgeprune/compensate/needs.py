"""What compensation takes while it works, besides values that are kept: matrices, and rows on their way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from edgeprune.compensate.activations import enough_rows
from edgeprune.compensate.layers import PIECES_AT_ONCE, Layer, can_unfold, mixes
from edgeprune.compensate.refit import FEWEST_IMAGES, most_rows, positions

FLOAT, DOUBLE = 4, 8
GRAMS = PIECES_AT_ONCE + 4
"""Alive at once: of each piece, their sum before and after; while solving, what is read, and its factor."""
MOMENTS = 3
"""For each layer: the sum, the covariance, and its inverse."""
COPIES_OF_ROWS = 4
"""Unfolded, in the order of least squares, about their mean, and as the other factor."""
COPIES_OF_WEIGHTS = 6
"""Dense, before and after a pass, fitted, on trial, and as given back."""


def working_bytes(
    layers: Iterable[Layer], weights: Mapping[str, Tensor], *, piece: int, threads: int
) -> float:
    """The most memory that moments, survivors and least squares need at once.

    Args:
        layers: From `find_layers`.
        weights: Of the dense network.
        piece: Images in a piece.
        threads: Pieces under way at once.
    """
    fits, moments = [0.0], 0.0
    for layer in layers:
        weight = weights[layer.weight]
        inputs = weight.numel() // weight.shape[0]
        if mixes(layer, weight):
            moments += MOMENTS * DOUBLE * layer.groups * weight.shape[layer.axis] ** 2
        if can_unfold(layer, weight):
            gram = DOUBLE * (layer.groups * inputs**2 + weight.numel())
            rows = threads * _rows_bytes(layer, inputs, piece) + _kept_bytes(layer, inputs, weight.shape[0])
            fits.append(GRAMS * gram + rows)
    return max(fits) + moments + COPIES_OF_WEIGHTS * sum(weight.nbytes for weight in weights.values())


def _rows_bytes(layer: Layer, inputs: int, piece: int) -> float:
    """Of one piece: one image unfolded, and the rows that are looked at."""
    image = positions(layer)
    rows = min(image, 2 * most_rows(inputs) / FEWEST_IMAGES)
    return FLOAT * inputs * layer.groups * (image + COPIES_OF_ROWS * piece * rows)


def _kept_bytes(layer: Layer, inputs: int, outputs: int) -> float:
    """Of all rows that are looked at again where an activation follows: inputs, goal, and what is added."""
    rows = 2 * min(most_rows(inputs), enough_rows(inputs))
    return FLOAT * rows * (inputs * layer.groups + 2 * outputs)
