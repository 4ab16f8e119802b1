"""How a rule reads a node: arguments by their schema names, operands by the axes they span."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import fx

from edgeprune.channels.ties import Factor, Operand, Ties, shape_of
from edgeprune.records import Ints

Op = Any  # torch's OpOverload is not typed
Rule = Callable[[fx.Node, Ties], None]


def bind(node: fx.Node) -> SimpleNamespace:
    """An op's arguments by their schema names, defaults filled in."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]  # an OpOverload
    bound = {arg.name: arg.default_value for arg in schema}
    bound.update(zip((arg.name for arg in schema), node.args, strict=False))
    bound.update(node.kwargs)
    return SimpleNamespace(**bound)


def dim_of(dim: int, source: fx.Node) -> int:
    return dim % len(shape_of(source))


def is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), torch.Tensor)


def broadcast(
    ties: Ties, value: fx.Node, node: fx.Node, rank: int, skip: frozenset[int] | set[int] = frozenset()
) -> Operand:
    shape, out = shape_of(value), shape_of(node)
    offset = rank - len(shape)
    spans = {d + offset for d, size in enumerate(shape) if size == out[d + offset]} - skip
    spans = {d for d in spans if out[d] > 1 or shape[d - offset] == out[d]}
    factors = []
    for factor in ties.factors(value):
        dims = tuple(d + offset for d in factor.dims)
        if set(dims) <= spans:
            factors.append((dims, factor.ids))
        else:
            ties.freeze(factor.ids, "broadcast over another axis", node.name)
    return Operand(frozenset(d for d in spans if out[d] > 1), tuple(factors))


def unlabelled(merged: Sequence[tuple[tuple[Hashable, ...], Ints]]) -> list[Factor]:
    return [Factor(tuple(int(str(name)) for name in labels), ids) for labels, ids in merged]


def without_axes(
    ties: Ties, node: fx.Node, source: fx.Node, gone: Collection[int], reason: str
) -> list[Factor]:
    """Factors of a tensor for an op that lets nothing be removed along `gone` axes.

    A joint factor keeps its other axes: of (heads, width), heads can still be removed whole.
    """
    kept = []
    for factor in ties.factors(source):
        inside = [place for place, d in enumerate(factor.dims) if d in gone]
        if len(inside) == len(factor.dims):
            ties.freeze(factor.ids, reason, node.name)
            continue
        ties.tie_along(factor.ids, inside)
        dims = tuple(d for d in factor.dims if d not in gone)
        kept.append(Factor(dims, first_along(factor.ids, inside)))
    return kept


def renumbered(factors: Sequence[Factor], left: Sequence[int]) -> list[Factor]:
    """Factors over the axes that are left, in this order."""
    return [Factor(tuple(left.index(d) for d in factor.dims), factor.ids) for factor in factors]


def channels_only(ties: Ties, node: fx.Node, source: fx.Node) -> Ints | None:
    """Identities along axis 1 of a tensor (N, C, ...); the op mixes the others, which stay as they are."""
    ids = ties.axis(source, 1)
    for factor in ties.factors(source):
        if 1 not in factor.dims:
            ties.freeze(factor.ids, "a spatial axis", node.name)
    return ids


def first_along(ids: Ints, axes: Sequence[int]) -> Ints:
    """`ids` without these axes: their first entry stands for all."""
    return ids[tuple(0 if axis in axes else slice(None) for axis in range(ids.ndim))]


def tie_or_freeze(ties: Ties, ids: Ints | None, own: Ints, node: fx.Node) -> None:
    if ids is None:
        ties.freeze(own, "its input cannot be cut", node.name)
    else:
        ties.tie(ids, own)
