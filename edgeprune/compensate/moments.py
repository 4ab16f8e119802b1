"""Mean and covariance of what each layer reads, over calibration images; labels are not needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from edgeprune.compensate.layers import (
    IMAGE_DIMS,
    Layer,
    Program,
    Read,
    Subject,
    Values,
    Weights,
    channel_rows,
    in_turn,
    mixes,
    sampled,
)

aten = torch.ops.aten
MOST_ROWS = 32_000
"""Positions that are looked at, over all images: neighbours say much the same."""
BLOCK = 256
"""Columns whose products are taken at once."""
ADDITIONS = (aten.add.Tensor, aten.add_.Tensor)


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Of the channels of one tensor in the network, in the groups that a layer reads them in."""

    mean: Tensor
    """Shape (groups, C / groups), float64."""
    covariance: Tensor
    """Shape (groups, C / groups, C / groups), float64."""
    rows: int
    """Positions that they were taken from."""

    @property
    def second(self) -> Tensor:
        """Second moments about zero, shape (groups, C / groups, C / groups)."""
        return self.covariance + outer(self.mean)


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """Moments of every tensor from whose channels units leave, and how much each layer's output varies."""

    sources: Mapping[Read, Moments]
    energy: Mapping[str, float]
    """Weight of a layer -> variance of the residual sum that its output goes into, or of the output."""


def measure_moments(
    subject: Subject,
    weights: Weights,
    *,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Measured:
    """Run the network with these weights and take the moments.

    Args:
        subject: The network and images.
        weights: Of the current network.
        on_progress: Called with pieces done and all pieces.
    """
    program, layers, images = subject.program, subject.layers, subject.images
    consumers = {(slot.parameter, slot.axis) for g in subject.groups for slot in g.slots if slot.consumer}
    sources = {
        layer.read: layer
        for layer in layers.values()
        if (layer.weight, layer.axis) in consumers and mixes(layer, weights[layer.weight])
    }
    sums = {layer.weight: whole(layer.node) for layer in layers.values()}
    stops = sorted({layer.place for layer in sources.values()} | _places(program, set(sums.values())))
    reads: dict[Read, Sums] = {}
    wholes: dict[fx.Node, Sums] = {}
    pieces = program.start(images)
    per_image = -(-MOST_ROWS // len(images))
    look = _Look(program, weights, stops, sources, frozenset(sums.values()), per_image)
    for done, found in enumerate(in_turn(program, look, pieces), start=1):
        for read, part in found.reads.items():
            reads[read] = reads[read] + part if read in reads else part
        for node, part in found.wholes.items():
            wholes[node] = wholes[node] + part if node in wholes else part
        on_progress(done, len(pieces))
    return Measured(
        {read: total.moments() for read, total in reads.items()},
        {name: float(wholes[node].variance().sum()) for name, node in sums.items()},
    )


def whole(node: fx.Node) -> fx.Node:
    """The residual sum that an output goes into, or the output itself."""
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0].target in ADDITIONS else node


def _places(program: Program, nodes: set[fx.Node]) -> set[int]:
    return {place + 1 for place, op in enumerate(program.ops) if op.node in nodes}


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """Of the rows of a tensor: what moments are made of."""

    rows: int
    first: Tensor
    second: Tensor
    """Products of all pairs of channels, or squares."""

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.rows + other.rows, self.first + other.first, self.second + other.second)

    @property
    def mean(self) -> Tensor:
        return self.first / self.rows

    def moments(self) -> Moments:
        mean = self.mean
        return Moments(mean, self.second / self.rows - outer(mean), self.rows)

    def variance(self) -> Tensor:
        return (self.second / self.rows - self.mean**2).clamp_min(0)


@dataclass(frozen=True, slots=True)
class _Seen:
    """Sums of one piece."""

    reads: dict[Read, Sums]
    wholes: dict[fx.Node, Sums]


@dataclass(frozen=True, slots=True, eq=False)
class _Look:
    """Runs one piece through the network and sums up what its layers read."""

    program: Program
    weights: Weights
    stops: Sequence[int]
    sources: Mapping[Read, Layer]
    wholes: frozenset[fx.Node]
    per_image: int

    def __call__(self, values: Values) -> _Seen:
        values = dict(values)
        found = _Seen({}, {})
        start = 0
        for stop in [*self.stops, len(self.program.ops)]:
            self.program.run_(values, weights=self.weights, start=start, stop=stop)
            start = stop
            for read, layer in self.sources.items():
                if layer.source in values and read not in found.reads:
                    found.reads[read] = _products(layer, values[layer.source], self.per_image)
            for node in self.wholes:
                if node in values and node not in found.wholes:
                    found.wholes[node] = _squares(values[node], self.per_image)
        return found


def outer(mean: Tensor) -> Tensor:
    """Products of all pairs, shape (..., C, C)."""
    return mean[..., :, None] * mean[..., None, :]


def products(rows: Tensor) -> Tensor:
    """Products of all pairs of columns, summed over rows, shape (..., columns, columns): half is computed."""
    columns = rows.shape[-1]
    found = rows.new_empty((*rows.shape[:-2], columns, columns))
    for start in range(0, columns, BLOCK):
        stop = min(start + BLOCK, columns)
        block = rows[..., start:stop].transpose(-1, -2) @ rows[..., start:]
        found[..., start:stop, start:] = block
        found[..., stop:, start:stop] = block[..., stop - start :].transpose(-1, -2)
    return found


def _products(layer: Layer, source: Tensor, per_image: int) -> Sums:
    rows = _thinned(channel_rows(layer, source), per_image * len(source))
    rows = rows.reshape(len(rows), layer.groups, -1).movedim(1, 0)
    mean = rows.mean(dim=1)
    around = rows - mean[:, None]  # products about the piece's own mean: nothing cancels in single precision
    mean = mean.double()
    second = products(around).double().add_(outer(mean), alpha=rows.shape[1])
    return Sums(rows.shape[1], rows.shape[1] * mean, second)


def _squares(value: Tensor, per_image: int) -> Sums:
    dim = 1 if value.ndim == IMAGE_DIMS else -1
    rows = _thinned(value.movedim(dim, -1).flatten(0, -2), per_image * len(value))
    return Sums(len(rows), rows.sum(dim=0).double(), rows.double().square().sum(dim=0))


def _thinned(rows: Tensor, most: int) -> Tensor:
    return sampled(rows, -(-len(rows) // most), axis=0)
