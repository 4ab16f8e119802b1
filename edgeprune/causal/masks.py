"""Several interventions in one run: the images once for each, with other channels masked in each.

Zeroing the columns that a unit has in a layer's weight is zeroing these channels of what that layer reads.
Nobody else reads the masked value. Where something other than a convolution or a linear layer sums over a
group, or nothing is known about where the images lie, there are no masks (`find` gives None).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor, fx

from edgeprune.causal.fold import CONVOLUTIONS
from edgeprune.causal.layout import Layout, find_layouts
from edgeprune.causal.program import Program, Values, Weights, arguments_of, weights_of
from edgeprune.records import ChannelGroup, Ints, Slot

aten = torch.ops.aten
TRANSPOSED = (aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input)
Layouts = Mapping[fx.Node, Layout]


@dataclass(frozen=True, slots=True, eq=False)
class Mask:
    """A layer that sums over a group, and the channels of its input that the units own."""

    place: int
    """Number of its op."""
    source: fx.Node
    axis: int
    """Of the source, that the channels lie on."""
    channels: Ints
    """Shape (units, copies)."""

    def over(self, value: Tensor, layout: Layout, sets: Sequence[Sequence[int]]) -> Tensor:
        """A repeated source, in each repetition without the channels of one set of units."""
        rows = torch.ones(len(sets), value.shape[self.axis], dtype=value.dtype)
        for row, units in zip(rows, sets, strict=True):
            row[torch.from_numpy(self.channels[list(units)].ravel())] = 0.0
        return value * layout.spread(rows.to(value.device), value, self.axis % value.ndim)


@dataclass(frozen=True, slots=True, eq=False)
class Masks:
    """All layers that sum over one group, in order of running."""

    program: Program
    layouts: Layouts
    layers: tuple[Mask, ...]

    @classmethod
    def find(cls, program: Program, group: ChannelGroup, layouts: Layouts) -> Self | None:
        """None where such a run is not known to give the same."""
        layers = list(_layers(program, group))
        if None in layers or layouts.get(program.output) != Layout(0):
            return None
        found = tuple(mask for mask in layers if mask is not None)
        seen = all(layouts.get(mask.source, Layout()).axis is not None for mask in found)
        known = _alive(program, found[0].place) <= layouts.keys()
        return cls(program, layouts, found) if seen and known else None

    @torch.inference_mode()
    def run(self, values: Values, weights: Weights, start: int, sets: Sequence[Sequence[int]]) -> Tensor:
        """The network's outputs without each of these sets, shape (sets, n, ...), on the CPU.

        Args:
            values: Alive before op `start`, whose layouts are known; untouched.
            weights: Of the current network.
            start: No layer that sums over the group stands before it.
            sets: Units of the group.
        """
        program, times = self.program, len(sets)
        values = {node: self.layouts[node].repeated(value, times) for node, value in values.items()}
        for mask in self.layers:
            program.run_(values, weights=weights, start=start, stop=mask.place)
            start, whole = mask.place + 1, values[mask.source]
            values[mask.source] = mask.over(whole, self.layouts[mask.source], sets)
            program.run_(values, weights=weights, start=mask.place, stop=start)
            if mask.source in values:  # somebody else reads it
                values[mask.source] = whole
        program.run_(values, weights=weights, start=start, stop=len(program.ops))
        output: Tensor = values[program.output]
        return output.reshape(times, -1, *output.shape[1:]).cpu()


def layouts_of(program: Program) -> Layouts:
    """Where the images lie in the program's values."""
    return {} if program.batch else find_layouts(program.folded.graph)


def _alive(program: Program, place: int) -> set[fx.Node]:
    """Values that are computed before an op and read from it on."""
    alive = {program.input}
    for op in program.ops[:place]:
        alive = (alive | {op.node}) - set(op.dies)
    return alive


def _layers(program: Program, group: ChannelGroup) -> Iterator[Mask | None]:
    """None for what cannot be masked."""
    slots = [slot for slot in group.slots if slot.consumer]
    for place, op in enumerate(program.ops):
        read = set(weights_of(op.node))
        masks = [_mask(place, op.node, slot, program.dense) for slot in slots if slot.parameter in read]
        if None in masks or len(masks) > 1:
            yield None
        else:
            yield from masks


def _mask(place: int, node: fx.Node, slot: Slot, dense: Weights) -> Mask | None:
    if node.target not in (*CONVOLUTIONS, *TRANSPOSED, aten.linear.default):
        return None
    given = arguments_of(node)
    source, weight = given["input"], given["weight"]
    own = weight.op == "get_attr" and str(weight.target) == slot.parameter and source.op != "get_attr"
    if not own or slot.axis != (0 if node.target in TRANSPOSED else 1):
        return None
    if node.target is aten.linear.default:
        return Mask(place, source, -1, slot.indices)
    if node.target in TRANSPOSED:
        return Mask(place, source, 1, slot.indices)
    # in a grouped convolution an index of the weight stands for the same place in every group
    starts = dense[slot.parameter].shape[1] * np.arange(given.get("groups", 1))
    return Mask(place, source, 1, (slot.indices[:, :, None] + starts).reshape(len(slot.indices), -1))
