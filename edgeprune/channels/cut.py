"""Coupling + units -> the traced graph without them, or with them masked."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from edgeprune.channels.groups import Coupling, Removed
from edgeprune.channels.repairs import repair_
from edgeprune.channels.trace import attribute

NOTHING: Mapping[str, Tensor] = MappingProxyType({})


def masked(coupling: Coupling, removed: Removed, weights: Mapping[str, Tensor] = NOTHING) -> fx.GraphModule:
    """The traced graph at full size, the units' entries zeroed wherever a layer sums over them.

    Args:
        coupling: From `couple`.
        removed: Units that go.
        weights: New values of parameters and buffers, at full size (compensation).
    """
    result = _with_weights(coupling, weights)
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
    result = _with_weights(coupling, weights)
    changed: dict[int, Tensor] = {}
    for name, axes in kept_indices(coupling, removed).items():
        tensor = attribute(result, name)
        assert isinstance(tensor, Tensor)
        changed[id(tensor)] = sliced(tensor, axes)
    _replace_(result, changed)
    repair_(result, coupling, coupling.kept(removed))
    return result


def _with_weights(coupling: Coupling, weights: Mapping[str, Tensor]) -> fx.GraphModule:
    result = copy.deepcopy(coupling.ties.traced.graph_module)
    for name, value in weights.items():
        tensor = attribute(result, name)
        assert isinstance(tensor, Tensor)
        tensor.data.copy_(value)
    return result


def kept_indices(coupling: Coupling, removed: Removed) -> dict[str, dict[int, Tensor]]:
    """Parameter or buffer -> axis -> the indices that stay; only axes that lose some."""
    kept = coupling.kept(removed)
    result: dict[str, dict[int, Tensor]] = {}
    for (name, axis), ids in coupling.ties.axes.items():
        if not kept[ids].all():
            result.setdefault(name, {})[axis] = torch.from_numpy(np.flatnonzero(kept[ids]))
    return result


def sliced(tensor: Tensor, axes: Mapping[int, Tensor]) -> Tensor:
    """A tensor with only these indices along these axes; parameters stay parameters."""
    value = tensor.detach()
    for axis, indices in axes.items():
        value = value.index_select(axis, indices.to(value.device))
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(value.clone(), requires_grad=tensor.requires_grad)
    return value.clone()


def _replace_(module: nn.Module, changed: Mapping[int, Tensor]) -> None:
    """Put new tensors wherever the old ones (given by their id) are held: a shared one has several names."""
    for child in module.modules():
        stores: list[dict[str, Any]] = [
            child._parameters,
            child._buffers,
            child.__dict__,
        ]  # Any: as torch types them
        for store in stores:
            store.update({key: changed[id(value)] for key, value in store.items() if id(value) in changed})
