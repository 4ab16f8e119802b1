"""After parameters are sliced: the shape constants that the graph's ops hold are made to fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from edgeprune.channels.groups import Coupling
from edgeprune.channels.reading import Op, bind, dim_of
from edgeprune.channels.ties import Factor, Ties, shape_of
from edgeprune.records import Ints

Kept = NDArray[np.bool_]
aten = torch.ops.aten


def repair_(graph_module: fx.GraphModule, coupling: Coupling, kept: Kept) -> None:
    """Correct the ops of a copy of the traced graph for the identities that stay."""
    old = {node.name: node for node in coupling.ties.traced.nodes}
    sizes = Sizes(coupling.ties, kept, old)
    smaller = {name for name, node in old.items() if sizes.is_smaller(node)}
    for node in graph_module.graph.nodes:
        repair = REPAIRS.get(node.target)
        if repair is not None and smaller & {node.name, *(n.name for n in node.all_input_nodes)}:
            repair(node, sizes)
    for node in graph_module.graph.find_nodes(op="call_function", target=aten.view.default):
        node.target = aten.reshape.default  # a smaller size may choose a kernel whose strides no view suits
    graph_module.recompile()


@dataclass(frozen=True, slots=True, eq=False)
class Sizes:
    """Sizes after the cut, for nodes of the cut graph; the ties know the old nodes, of the same names."""

    ties: Ties
    kept: Kept
    old: dict[str, fx.Node]

    def is_smaller(self, node: fx.Node) -> bool:
        return not all(self.kept[factor.ids].all() for factor in self.ties.settled(self.old[node.name]))

    def size(self, node: fx.Node, dim: int) -> int | None:
        """New size along one axis; None where nothing can be removed."""
        return self.size_in(self.ties.settled(self.old[node.name]), dim)

    def size_in(self, factors: Sequence[Factor], dim: int) -> int | None:
        for factor in factors:
            if dim in factor.dims:
                others = tuple(place for place, d in enumerate(factor.dims) if d != dim)
                return int(self.kept[factor.ids].any(axis=others).sum())
        return None

    def axis(self, node: fx.Node, dim: int) -> Ints | None:
        """Identities along one axis, where they are its own and some are removed."""
        for factor in self.ties.settled(self.old[node.name]):
            if factor.dims == (dim,) and not self.kept[factor.ids].all():
                return factor.ids
        return None

    def stay(self, ids: Ints) -> int:
        """How many of these stay."""
        return int(self.kept[ids].sum())


Repair = Callable[[fx.Node, Sizes], None]


def _set_argument_(node: fx.Node, name: str, value: object) -> None:
    schema = node.target._schema.arguments  # type: ignore[union-attr]  # an OpOverload
    place = [argument.name for argument in schema].index(name)
    if place < len(node.args):
        node.update_arg(place, value)  # type: ignore[arg-type]  # lists of ints and nodes are fine
    else:
        node.update_kwarg(name, value)  # type: ignore[arg-type]  # the same


def _resize(node: fx.Node, sizes: Sizes) -> None:
    """view, expand: the list of sizes. One that holds the batch is a node: torch works it out (-1)."""
    name = "shape" if hasattr(bind(node), "shape") else "size"
    given = list(getattr(bind(node), name))
    old = shape_of(sizes.old[node.name])
    for dim, before in enumerate(given):
        after = sizes.size(node, dim)
        if after is None or before == -1:
            continue
        if isinstance(before, int):
            given[dim] = after
        else:
            unknown = [d for d, size in enumerate(given) if size == -1]
            given = [
                (sizes.size(node, d) or old[d]) if d in unknown else size for d, size in enumerate(given)
            ]
            given[dim] = -1
    _set_argument_(node, name, given)


def _conv_groups(node: fx.Node, sizes: Sizes) -> None:
    """Grouped convolutions keep whole groups, or the same index in every group."""
    a = bind(node)
    ids = sizes.axis(a.input, 1)
    if a.groups > 1 and ids is not None:
        _set_argument_(node, "groups", _groups_left(ids, a.groups, sizes))


def _norm_groups(node: fx.Node, sizes: Sizes) -> None:
    a = bind(node)
    ids = sizes.axis(a.input, 1)
    if ids is not None:
        _set_argument_(node, "num_groups", _groups_left(ids, a.num_groups, sizes))


def _groups_left(ids: Ints, groups: int, sizes: Sizes) -> int:
    return int(sizes.kept[ids].reshape(groups, -1).any(axis=1).sum())


def _split(node: fx.Node, sizes: Sizes) -> None:
    """Pieces of equal size become pieces of their own sizes."""
    a = bind(node)
    dim = dim_of(a.dim, sizes.old[a.self.name])
    if sizes.axis(a.self, dim) is None:
        return
    pieces = [sizes.size_in(factors, dim) for factors in sizes.ties.outputs[sizes.old[node.name]]]
    node.target = aten.split_with_sizes.default
    node.args, node.kwargs = (a.self, pieces, a.dim), {}


def _narrow(node: fx.Node, sizes: Sizes) -> None:
    """slice, slice_scatter: start and end, counted in what stays."""
    a = bind(node)
    source = sizes.old[a.self.name]
    dim = dim_of(a.dim, source)
    ids = sizes.axis(a.self, dim)
    if ids is not None:
        start, end, _ = slice(a.start, a.end).indices(shape_of(source)[dim])
        _set_argument_(node, "start", sizes.stay(ids[:start]))
        _set_argument_(node, "end", sizes.stay(ids[:end]))


def _pad(node: fx.Node, sizes: Sizes) -> None:
    """Channels that are all padding."""
    amounts = list(bind(node).pad)
    rank = len(shape_of(sizes.old[node.name]))
    for place in range(0, len(amounts), 2):
        before, after = amounts[place : place + 2]
        ids = sizes.axis(node, rank - 1 - place // 2)
        if ids is not None:
            amounts[place : place + 2] = [sizes.stay(ids[:before]), sizes.stay(ids[len(ids) - after :])]
    _set_argument_(node, "pad", amounts)


def _scale(node: fx.Node, sizes: Sizes) -> None:
    """Attention divides scores by the root of the width; narrower heads keep the divisor of the wide ones."""
    a = bind(node)
    width = shape_of(sizes.old[a.query.name])[-1]
    if a.scale is None:
        _set_argument_(node, "scale", float(width**-0.5))


REPAIRS: dict[Op, Repair] = {
    **dict.fromkeys([aten.view.default, aten._unsafe_view.default, aten.expand.default], _resize),
    **dict.fromkeys([aten.conv1d.default, aten.conv2d.default, aten.conv3d.default], _conv_groups),
    **dict.fromkeys([aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding], _conv_groups),
    **dict.fromkeys(
        [aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input],
        _conv_groups,
    ),
    aten.group_norm.default: _norm_groups,
    aten.scaled_dot_product_attention.default: _scale,
    **dict.fromkeys([aten.split.Tensor, aten.split_with_sizes.default], _split),
    **dict.fromkeys([aten.slice.Tensor, aten.slice_scatter.default], _narrow),
    **dict.fromkeys([aten.pad.default, aten.constant_pad_nd.default], _pad),
}
