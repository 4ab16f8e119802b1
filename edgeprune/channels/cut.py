"""Coupling + units -> the traced graph without them, or with them masked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor, fx, nn

from edgeprune.channels.groups import Coupling, Removed
from edgeprune.channels.repairs import repair_
from edgeprune.channels.trace import attribute
from edgeprune.copying import copied

NOTHING: Mapping[str, Tensor] = MappingProxyType({})


def masked(coupling: Coupling, removed: Removed, weights: Mapping[str, Tensor] = NOTHING) -> fx.GraphModule:
    """The traced graph at full size, the units' entries zeroed wherever a layer sums over them.

    Args:
        coupling: From `couple`.
        removed: Units that go.
        weights: New values of parameters and buffers, at full size (compensation).
    """
    result = copied(coupling.ties.traced.graph_module)
    _give_(result, weights)
    for group in coupling.groups:
        units = list(removed.get(group.name, ()))
        for slot in group.slots if units else ():
            if slot.consumer:
                tensor = attribute(result, slot.parameter)
                assert isinstance(tensor, Tensor)
                tensor.data.index_fill_(slot.axis, torch.from_numpy(slot.indices[units].ravel()), 0.0)
    return result


def cut(coupling: Coupling, removed: Removed, weights: Mapping[str, Tensor] = NOTHING) -> fx.GraphModule:
    """The traced graph without the units: parameters sliced, shape constants corrected; see `masked`."""
    graph_module = coupling.ties.traced.graph_module
    smaller: dict[int, object] = {}
    kept = kept_indices(coupling, removed)
    for name, axes in kept.items():
        tensor = attribute(graph_module, name)
        assert isinstance(tensor, Tensor)
        smaller[id(tensor)] = sliced(tensor, axes, weights.get(name))
    # A copy that holds the smaller tensors from the start: the large ones are never in memory twice.
    result = copied(graph_module, smaller)
    _give_(result, {name: value for name, value in weights.items() if name not in kept})
    repair_(result, coupling, coupling.kept(removed))
    return result


def _give_(graph_module: fx.GraphModule, weights: Mapping[str, Tensor]) -> None:
    for name, value in weights.items():
        tensor = attribute(graph_module, name)
        assert isinstance(tensor, Tensor)
        tensor.data.copy_(value)


def kept_indices(coupling: Coupling, removed: Removed) -> dict[str, dict[int, Tensor]]:
    """Parameter or buffer -> axis -> the indices that stay; only axes that lose some."""
    kept = coupling.kept(removed)
    result: dict[str, dict[int, Tensor]] = {}
    for (name, axis), ids in coupling.ties.axes.items():
        if not kept[ids].all():
            result.setdefault(name, {})[axis] = torch.from_numpy(np.flatnonzero(kept[ids]))
    return result


def removed_by(
    kept: Mapping[str, Mapping[int, Sequence[int]]], coupling: Coupling
) -> dict[str, tuple[int, ...]]:
    """The units of which an index does not stay; the inverse of `kept_indices`."""
    removed: dict[str, tuple[int, ...]] = {}
    for group in coupling.groups:
        gone = np.zeros(group.units, dtype=bool)
        for slot in group.slots:
            left = kept.get(slot.parameter, {}).get(slot.axis)
            if left is not None:
                gone |= ~np.isin(slot.indices, np.asarray(left)).all(axis=1)
        if gone.any():
            removed[group.name] = tuple(np.flatnonzero(gone).tolist())
    return removed


def sliced(tensor: Tensor, axes: Mapping[int, Tensor], other: Tensor | None = None) -> Tensor:
    """A tensor (or other values for it) with only these indices along these axes; parameters stay such."""
    value = (tensor if other is None else other).detach()
    for axis, indices in axes.items():
        value = value.index_select(axis, indices.to(value.device))
    value = value.to(tensor.dtype)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(value.clone(), requires_grad=tensor.requires_grad)
    return value.clone()
