"""Coupling + units -> the traced graph with sliced parameters and corrected shape constants, or with masked ones."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, fx, nn

from edgeprune.channels.groups import Coupling
from edgeprune.channels.reading import Op, bind, dim_of
from edgeprune.channels.ties import Factor, shape_of
from edgeprune.channels.trace import parameter

Removed = Mapping[str, tuple[int, ...]]
Kept = np.ndarray[tuple[int], np.dtype[np.bool_]]
aten = torch.ops.aten


def masked(coupling: Coupling, removed: Removed) -> fx.GraphModule:
    """The traced graph at full size, the units' entries zeroed wherever a layer sums over them."""
    result = copy.deepcopy(coupling.ties.traced.graph_module)
    for group in coupling.groups:
        units = list(removed.get(group.name, ()))
        for slot in group.slots if units else ():
            if slot.consumer:
                tensor = _attribute(result, slot.parameter)
                index = torch.from_numpy(slot.indices[units].ravel())
                tensor.data.index_fill_(slot.axis, index, 0.0)
    return result


def cut(coupling: Coupling, removed: Removed) -> fx.GraphModule:
    """The traced graph without the units: parameters sliced, shape constants corrected."""
    result = copy.deepcopy(coupling.ties.traced.graph_module)
    kept = coupling.kept(removed)
    for name, axes in kept_indices(coupling, removed).items():
        _set_attribute(result, name, sliced(_attribute(result, name), axes))
    old = coupling.ties.traced.nodes
    sizes = {new.name: _Sizes(before, coupling, kept) for before, new in zip(old, result.graph.nodes, strict=True)}
    for node in result.graph.nodes:
        repair = REPAIRS.get(node.target)
        if repair is not None and sizes[node.name].touched:
            repair(node, sizes)
    result.recompile()
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


@dataclass(slots=True, eq=False)
class Costs:
    """Parameters and multiply-adds of the network for any set of removed units."""

    coupling: Coupling

    def count(self, removed: Removed) -> tuple[int, int]:
        """(parameters, multiply-adds per image) when these units are removed; buffers do not count."""
        ties = self.coupling.ties
        kept = self.coupling.kept(removed)
        params, macs = 0, 0.0
        for name, tensor in ties.traced.graph_module.named_parameters():
            sizes = list(tensor.shape)
            for axis in range(tensor.ndim):
                if (name, axis) in ties.axes:
                    sizes[axis] = int(kept[ties.axes[name, axis]].sum())
            params += int(np.prod(sizes))
            macs += float(np.prod(sizes)) * ties.positions.get(name, 0.0)
        return params, round(macs)


@dataclass(slots=True, eq=False)
class _Sizes:
    """New sizes of one node's axes."""

    node: fx.Node
    coupling: Coupling
    keep: Kept

    @property
    def touched(self) -> bool:
        nodes = (self.node, *self.node.all_input_nodes)
        return any(not self.keep[f.ids].all() for n in nodes for f in self.coupling.ties.settled(n))

    def size(self, dim: int, factors: Sequence[Factor] | None = None) -> int | None:
        """Size along one axis after the cut; None where nothing was removed."""
        for factor in self.coupling.ties.settled(self.node) if factors is None else factors:
            if dim in factor.dims:
                others = tuple(i for i, d in enumerate(factor.dims) if d != dim)
                return int(self.keep[factor.ids].any(axis=others).sum())
        return None

    def pieces(self, dim: int) -> list[int]:
        """New sizes of the outputs of a split along one axis."""
        outputs = self.coupling.ties.outputs[self.node]
        olds = [value.shape[dim] for value in self.node.meta["val"]]
        news = [self.size(dim, factors) for factors in outputs]
        return [int(old) if new is None else new for old, new in zip(olds, news, strict=True)]

    def before(self, ids: np.ndarray[tuple[int], np.dtype[np.int64]], index: int) -> int:
        return int(self.keep[ids[:index]].sum())


Repair = Callable[[fx.Node, Mapping[str, _Sizes]], None]


def _set(node: fx.Node, name: str, value: object) -> None:
    names = [arg.name for arg in node.target._schema.arguments]  # type: ignore[union-attr]  # an OpOverload
    place = names.index(name)
    if place < len(node.args):
        node.update_arg(place, value)  # type: ignore[arg-type]  # lists of ints and nodes are fine
    else:
        node.update_kwarg(name, value)  # type: ignore[arg-type]  # the same


def _resize(node: fx.Node, sizes: Mapping[str, _Sizes]) -> None:
    """view, reshape, expand: the list of sizes."""
    a = bind(node)
    name = "shape" if hasattr(a, "shape") else "size"
    given = list(getattr(a, name))
    for dim, old in enumerate(given):
        new = sizes[node.name].size(dim)
        if new is not None and old != -1:
            given[dim] = new if isinstance(old, int) else -1  # a symbolic size holds the batch: leave it to torch
    _set(node, name, given)


def _groups(node: fx.Node, sizes: Mapping[str, _Sizes]) -> None:
    """Grouped convolutions keep whole groups, or the same index in every group."""
    a = bind(node)
    if a.groups > 1:
        source = sizes[a.input.name]
        weight = sizes[a.weight.name]
        inputs = source.size(1) or shape_of(source.node)[1]
        transposed = "transpose" in str(node.target)
        per_group = weight.size(1) or shape_of(weight.node)[1]
        _set(node, "groups", inputs if transposed else inputs // per_group)


def _split(node: fx.Node, sizes: Mapping[str, _Sizes]) -> None:
    a = bind(node)
    pieces = sizes[node.name].pieces(dim_of(a.dim, sizes[a.self.name].node))
    node.target = aten.split_with_sizes.default
    node.args = (a.self, pieces, a.dim)
    node.kwargs = {}


def _narrow(node: fx.Node, sizes: Mapping[str, _Sizes]) -> None:
    a = bind(node)
    source = sizes[a.self.name]
    dim = dim_of(a.dim, source.node)
    old = shape_of(source.node)[dim]
    for factor in source.coupling.ties.settled(source.node):
        if factor.dims == (dim,):
            start, end, _ = slice(a.start, a.end).indices(old)
            _set(node, "start", source.before(factor.ids, start))
            _set(node, "end", source.before(factor.ids, end))


def _pad(node: fx.Node, sizes: Mapping[str, _Sizes]) -> None:
    a = bind(node)
    here = sizes[node.name]
    rank = len(shape_of(here.node))
    amounts = list(a.pad)
    for factor in here.coupling.ties.settled(here.node):
        place = 2 * (rank - 1 - factor.dims[0])
        if len(factor.dims) == 1 and place < len(amounts):
            before, after = amounts[place], amounts[place + 1]
            amounts[place] = here.before(factor.ids, before)
            amounts[place + 1] = here.before(factor.ids[::-1], after)
    _set(node, "pad", amounts)


REPAIRS: dict[Op, Repair] = {
    **dict.fromkeys(
        [aten.view.default, aten._unsafe_view.default, aten.reshape.default, aten.expand.default], _resize
    ),
    **dict.fromkeys([aten.conv1d.default, aten.conv2d.default, aten.conv3d.default], _groups),
    **dict.fromkeys([aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding], _groups),
    **dict.fromkeys([aten.conv_transpose1d.default, aten.conv_transpose2d.input], _groups),
    **dict.fromkeys([aten.split.Tensor, aten.split_with_sizes.default], _split),
    **dict.fromkeys([aten.slice.Tensor, aten.slice_scatter.default], _narrow),
    **dict.fromkeys([aten.pad.default, aten.constant_pad_nd.default], _pad),
}


def _attribute(module: fx.GraphModule, name: str) -> Tensor:
    found: object = module
    for part in name.split("."):
        found = getattr(found, part)
    assert isinstance(found, Tensor)
    return found


def _set_attribute(module: fx.GraphModule, name: str, value: Tensor) -> None:
    owner_name, _, last = name.rpartition(".")
    owner = module.get_submodule(owner_name)
    if last in owner._buffers:
        owner._buffers[last] = value
    else:
        setattr(owner, last, value)


__all__ = ["Costs", "cut", "kept_indices", "masked", "parameter", "sliced"]
