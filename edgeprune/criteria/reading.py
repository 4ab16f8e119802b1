"""Where units are read: the layers that sum over a group, and the channels of their inputs that it owns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, fx

from edgeprune.criteria.subject import Scores
from edgeprune.errors import ModelError
from edgeprune.records import ChannelGroup, Ints, Slot

aten = torch.ops.aten


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reading:
    """One layer that sums over the units of one group."""

    group: str
    layer: fx.Node
    source: fx.Node
    """The layer's data input."""
    axis: int
    """The axis of the data input that its channels lie on."""
    channels: Tensor
    """Shape (units, copies): channels of the data input that a unit owns."""
    parameter: str
    """The layer's weight."""


def find_readings(graph: fx.GraphModule, groups: Sequence[ChannelGroup]) -> tuple[Reading, ...]:
    """Every layer that sums over a group, by the parameters that the group's consumer slots name.

    Raises:
        ModelError: a group is read by nothing that we know how to look into.
    """
    layers: dict[str, list[fx.Node]] = {}
    for node in graph.graph.nodes:
        for read in node.all_input_nodes if node.op == "call_function" else ():
            if read.op == "get_attr":
                layers.setdefault(str(read.target), []).append(node)
    found: list[Reading] = []
    for group in groups:
        slots = [slot for slot in group.slots if slot.consumer]
        new = [_reading(group, slot, node) for slot in slots for node in layers.get(slot.parameter, ())]
        found += (readings := [reading for reading in new if reading])
        if not readings:
            ops = {str(node.target) for slot in slots for node in layers.get(slot.parameter, ())}
            raise ModelError(
                f"{group.name}: this criterion cannot look into what reads it: {', '.join(sorted(ops))}; "
                "choose c-swap-c, c-swap or a magnitude, or leave out what cuts heads in width (head_width)."
            )
    return tuple(found)


def arguments(node: fx.Node) -> dict[str, object]:
    """An op's arguments by their schema names, without those left at their defaults."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]  # an OpOverload
    return {**dict(zip((arg.name for arg in schema), node.args, strict=False)), **node.kwargs}


def _reading(group: ChannelGroup, slot: Slot, node: fx.Node) -> Reading | None:
    """How a layer reads a group through this axis of its weight; None where it does not sum over it."""
    find = LAYERS.get(node.target)
    place = find(node, slot) if find else None
    if place is None:
        return None
    source, axis, channels = place
    return Reading(
        group=group.name,
        layer=node,
        source=source,
        axis=axis,
        channels=torch.from_numpy(channels),
        parameter=slot.parameter,
    )


Place = tuple[fx.Node, int, Ints]
"""Data input, axis, and channels (units, copies)."""


def _convolution(node: fx.Node, slot: Slot) -> Place | None:
    """Weight axis 1; in a grouped convolution index i stands for the same place in every group."""
    given = arguments(node)
    source, groups = given["input"], given.get("groups", 1)
    assert isinstance(source, fx.Node)
    assert isinstance(groups, int)
    if slot.axis != 1 or _is_not(given["weight"], slot):
        return None
    width = source.meta["val"].shape[1] // groups
    starts = width * np.arange(groups)
    return source, 1, (slot.indices[:, :, None] + starts).reshape(len(slot.indices), -1)


def _transposed(node: fx.Node, slot: Slot) -> Place | None:
    given = arguments(node)
    source = given["input"]
    assert isinstance(source, fx.Node)
    return None if slot.axis != 0 or _is_not(given["weight"], slot) else (source, 1, slot.indices)


def _linear(node: fx.Node, slot: Slot) -> Place | None:
    given = arguments(node)
    source = given["input"]
    assert isinstance(source, fx.Node)
    return None if slot.axis != 1 or _is_not(given["weight"], slot) else (source, -1, slot.indices)


def _product(node: fx.Node, slot: Slot) -> Place | None:
    """The axis before the last of the right matrix meets the last one of the left."""
    given = arguments(node)
    left, right = [value for name, value in given.items() if name in ("mat1", "self", "mat2", "other")][-2:]
    assert isinstance(left, fx.Node)
    assert isinstance(right, fx.Node)
    if not _is_not(right, slot) and slot.axis == right.meta["val"].ndim - 2:
        return left, -1, slot.indices
    if not _is_not(left, slot) and slot.axis == left.meta["val"].ndim - 1:
        return right, -2, slot.indices
    return None


def _einsum(node: fx.Node, slot: Slot) -> Place | None:
    given = arguments(node)
    inputs, output = str(given["equation"]).replace(" ", "").split("->")
    labels = inputs.split(",")
    tensors = given["tensors"]
    assert isinstance(tensors, (list, tuple))
    weight = next(place for place, tensor in enumerate(tensors) if not _is_not(tensor, slot))
    label = labels[weight][slot.axis]
    others = [i for i, names in enumerate(labels) if i != weight and label in names]
    if label in output or len(others) != 1:
        return None
    return tensors[others[0]], labels[others[0]].index(label), slot.indices


def _is_not(value: object, slot: Slot) -> bool:
    return not (isinstance(value, fx.Node) and value.op == "get_attr" and value.target == slot.parameter)


CONVOLUTIONS = (
    *(aten.conv1d.default, aten.conv2d.default, aten.conv3d.default),
    *(aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding),
)
TRANSPOSED = (aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input)

LAYERS: dict[object, Callable[[fx.Node, Slot], Place | None]] = {
    **dict.fromkeys(CONVOLUTIONS, _convolution),
    **dict.fromkeys(TRANSPOSED, _transposed),
    aten.linear.default: _linear,
    **dict.fromkeys([aten.matmul.default, aten.mm.default, aten.bmm.default], _product),
    aten.addmm.default: _product,
    aten.einsum.default: _einsum,
}


def by_channel(value: Tensor, axis: int) -> Tensor:
    """Shape (rows, channels): images and positions in rows."""
    return value.movedim(axis, -1).flatten(0, -2)


def per_channel(rows: Callable[[Tensor], Tensor], reading: Reading, value: Tensor) -> Tensor:
    """A statistic over images and positions, in double precision, shape (channels,)."""
    return rows(by_channel(value, reading.axis).double())


def summed(readings: Sequence[Reading], channels: Mapping[fx.Node, Tensor]) -> Scores:
    """Numbers of channels summed over the copies of each unit and over the layers that read it."""
    result: Scores = {}
    for reading in readings:
        units = channels[reading.layer][reading.channels].sum(dim=1).numpy()
        result[reading.group] = result.get(reading.group, 0.0) + units
    return result


def averaged(readings: Sequence[Reading], channels: Mapping[fx.Node, Tensor]) -> Scores:
    """The mean instead, in which every channel counts alike."""
    copies: dict[str, int] = {}
    for reading in readings:
        copies[reading.group] = copies.get(reading.group, 0) + reading.channels.shape[1]
    return {group: total / copies[group] for group, total in summed(readings, channels).items()}
