"""Identities of channels, and the ties between those that must live or die together.

Every index of every parameter axis gets an identity: a number. A tensor in the graph carries *factors*: a
factor says which identity each index of one axis (or of several axes taken together, after a reshape such as
(heads * width) -> (heads, width)) belongs to. An axis without a factor is solid: nothing may be removed
there.
The rules (rules.py) tie and freeze identities; `groups.py` solves for the sets that hang together.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
from torch import fx

from edgeprune.channels.trace import Traced
from edgeprune.records import Ints

MAX_JOINT = 1 << 22
"""Identities in one joint factor beyond which it is frozen rather than carried."""


@dataclass(frozen=True, slots=True, eq=False)
class Factor:
    """Identities along some axes of a tensor: `ids.shape[i]` is the tensor's size along `dims[i]`."""

    dims: tuple[int, ...]
    ids: Ints


@dataclass(frozen=True, slots=True, eq=False)
class Operand:
    """A tensor as seen by an op: the op's own label of each axis it spans, and its factors over labels."""

    labels: frozenset[Hashable]
    factors: tuple[tuple[tuple[Hashable, ...], Ints], ...]


@dataclass(slots=True, eq=False)
class Frozen:
    ids: Ints
    reason: str
    detail: str


@dataclass(slots=True, eq=False)
class Ties:
    """All identities of one traced network, and what the rules said about them."""

    traced: Traced
    head_width: bool = False
    """Whether attention heads are cut in width instead of whole."""
    values: dict[fx.Node, list[Factor]] = field(default_factory=dict)
    outputs: dict[fx.Node, list[list[Factor]]] = field(default_factory=dict)
    """Factors per item, for ops that give several tensors."""
    axes: dict[tuple[str, int], Ints] = field(default_factory=dict)
    """Identities of parameter axes: (parameter, axis) -> one per index."""
    consumers: set[tuple[str, int]] = field(default_factory=set)
    """Parameter axes that their layer sums over."""
    made: set[tuple[str, int]] = field(default_factory=set)
    """Parameter axes that make queries and keys; `widths`: identities of the width of their heads."""
    widths: list[Ints] = field(default_factory=list)
    positions: dict[str, float] = field(default_factory=dict)
    """Multiply-adds per weight entry and image, for the parameters that layers multiply with."""
    edges: list[tuple[Ints, Ints]] = field(default_factory=list)
    frozen: list[Frozen] = field(default_factory=list)
    grids: dict[bytes, Ints] = field(default_factory=dict)
    """Joint factors: what is kept must stay a full rectangle."""
    segments: list[Ints] = field(default_factory=list)
    """Pieces of a split: at least one identity of each has to stay."""
    unknown: dict[str, int] = field(default_factory=dict)
    """Ops without a rule -> how often they occur."""
    count: int = 0
    """Identities so far."""
    pairs: int = 0
    """Ties so far: what coupling takes in time and memory grows with them."""

    # identities ---------------------------------------------------------------------------------------

    def fresh(self, size: int) -> Ints:
        """New identities."""
        ids = np.arange(self.count, self.count + size, dtype=np.int64)
        self.count += size
        return ids

    def parameter_axis(self, node: fx.Node, axis: int) -> Ints:
        """Identities of one axis of the parameter that a get_attr node reads."""
        key = (str(node.target), axis)
        if key not in self.axes:
            self.axes[key] = self.fresh(shape_of(node)[axis])
        return self.axes[key]

    def weight_axis(self, node: fx.Node, axis: int) -> Ints:
        """The same for any weight; an axis of a computed one that cannot be cut gets frozen identities."""
        if node.op == "get_attr":
            return self.parameter_axis(node, axis)
        ids = self.axis(node, axis)
        if ids is None:
            ids = self.fresh(shape_of(node)[axis])
            self.freeze(ids, "a computed weight", node.name)
        return ids

    def sums_over(self, node: fx.Node, axis: int, positions: float) -> Ints:
        """Declare that a layer sums over an axis of its weight, at so many positions; give its identities."""
        ids = self.weight_axis(node, axis)
        if node.op == "get_attr":
            self.consumers.add((str(node.target), axis))
        else:
            self.freeze(ids, "a computed weight", node.name)
        self.multiplies(node, positions)
        return ids

    def multiplies(self, node: fx.Node, positions: float) -> None:
        """Declare that each entry of a weight is multiplied at so many positions per image."""
        if node.op == "get_attr":
            name = str(node.target)
            self.positions[name] = self.positions.get(name, 0.0) + positions

    def factors(self, value: object) -> list[Factor]:
        """Factors of a node's tensor; parameters carry one per axis."""
        if not isinstance(value, fx.Node):
            return []
        if value.op == "get_attr" and value not in self.values and "val" in value.meta:
            sizes = enumerate(shape_of(value))
            return [Factor((d,), self.parameter_axis(value, d)) for d, size in sizes if size > 1]
        return self.values.get(value, [])

    def settled(self, node: fx.Node) -> list[Factor]:
        """All factors a node was given (of all its outputs), without making new ones."""
        rank = len(shape_of(node)) if node.op == "get_attr" and "val" in node.meta else 0
        keys = [(str(node.target), d) for d in range(rank)]
        own = [Factor((axis,), self.axes[name, axis]) for name, axis in keys if (name, axis) in self.axes]
        return [*own, *self.values.get(node, []), *chain.from_iterable(self.outputs.get(node, []))]

    def axis(self, value: fx.Node, dim: int) -> Ints | None:
        """Identities along one axis, or None where the axis is solid; joint factors are frozen."""
        for factor in self.factors(value):
            if factor.dims == (dim,):
                return factor.ids
            if dim in factor.dims:
                self.freeze(factor.ids, "reshaped together with other axes", f"{value.name} axis {dim}")
        return None

    def carry(self, node: fx.Node, factors: Sequence[Factor]) -> None:
        """Record what a node carries; joint factors become rectangle conditions."""
        self.values[node] = self._checked(node, factors)

    def carry_many(self, node: fx.Node, outputs: Sequence[Sequence[Factor]]) -> None:
        """The same for an op that gives several tensors."""
        self.outputs[node] = [self._checked(node, factors) for factors in outputs]

    def _checked(self, node: fx.Node, factors: Sequence[Factor]) -> list[Factor]:
        checked = []
        for factor in map(compress, factors):
            if not factor.dims:
                self.freeze(factor.ids, "a single channel", node.name)
                continue
            if len(factor.dims) > 1:
                self.grids[factor.ids.tobytes()] = factor.ids
            checked.append(factor)
        return checked

    # statements ---------------------------------------------------------------------------------------

    def tie(self, a: Ints, b: Ints) -> None:
        """These identities live or die together, index by index (broadcast)."""
        a, b = np.broadcast_arrays(a, b)
        self.edges.append((a.ravel(), b.ravel()))
        self.pairs += a.size

    def tie_along(self, ids: Ints, axes: Sequence[int]) -> None:
        """Identities that differ only along `axes` live or die together."""
        if not axes:
            return
        first = ids
        for axis in axes:
            first = np.take(first, [0], axis=axis)
        self.tie(ids, first)

    def freeze(self, ids: Ints, reason: str, detail: str) -> None:
        self.frozen.append(Frozen(ids.ravel(), reason, detail))

    def freeze_all(self, node: fx.Node, reason: str) -> None:
        """Freeze every tensor that an op reads."""
        for operand in node.all_input_nodes:
            for factor in (*self.factors(operand), *chain.from_iterable(self.outputs.get(operand, []))):
                self.freeze(factor.ids, reason, node.name)

    # combination --------------------------------------------------------------------------------------

    def merge(self, operands: Sequence[Operand], where: str) -> list[tuple[tuple[Hashable, ...], Ints]]:
        """Bring several tensors together over common labels, elementwise; give the factors of the result.

        A label that one operand spans without a factor is solid there: nothing may be removed along it.
        """
        factors = [factor for operand in operands for factor in operand.factors]
        solid = {
            label
            for operand in operands
            for label in operand.labels - {name for labels, _ in operand.factors for name in labels}
        }
        result = []
        for cluster in _clusters(factors):
            merged = self._merge_cluster(cluster, solid, operands, where)
            if merged is not None:
                result.append(merged)
        return result

    def _merge_cluster(
        self,
        cluster: list[tuple[tuple[Hashable, ...], Ints]],
        solid: set[Hashable],
        operands: Sequence[Operand],
        where: str,
    ) -> tuple[tuple[Hashable, ...], Ints] | None:
        labels, ids = max(cluster, key=lambda factor: len(factor[0]))
        stuck = [i for i, label in enumerate(labels) if label in solid]
        if len(stuck) == len(labels) or any(not set(names) <= set(labels) for names, _ in cluster):
            for _, others in cluster:
                self.freeze(others, "meets an axis that cannot be cut", where)
            return None
        for operand in operands:
            stuck += self._split_by(operand, labels, where)
        self.tie_along(ids, stuck)
        for names, others in cluster:
            if others is not ids:
                self.tie(ids, _aligned(others, names, labels))
        return labels, ids

    def _split_by(self, operand: Operand, labels: tuple[Hashable, ...], where: str) -> list[int]:
        """An operand with separate factors for axes joint elsewhere can be cut along the first only."""
        inside = [(names, ids) for names, ids in operand.factors if set(names) < set(labels)]
        stuck = []
        for names, ids in inside[1:]:
            self.freeze(ids, "reshaped together with other axes", where)
            stuck += [labels.index(name) for name in names]
        return stuck


def shape_of(value: object) -> tuple[int, ...]:
    """Example shape of a node's (first) tensor; a free batch axis shows its example size."""
    assert isinstance(value, fx.Node)
    meta = value.meta["val"]
    meta = meta[0] if isinstance(meta, (tuple, list)) else meta
    return tuple(size_of(size) for size in meta.shape)


def size_of(size: object) -> int:
    """An int, or the example value of a symbolic size."""
    return size if isinstance(size, int) else int(size.node.hint)  # type: ignore[attr-defined]  # torch.SymInt


def compress(factor: Factor) -> Factor:
    """Drop axes of a joint factor along which the identities do not change."""
    dims, ids = factor.dims, factor.ids
    if len(dims) == 1:
        return factor
    for axis in reversed(range(len(dims))):
        first = np.take(ids, [0], axis=axis)
        if (ids == first).all():
            dims, ids = dims[:axis] + dims[axis + 1 :], np.squeeze(first, axis=axis)
    return Factor(dims, np.ascontiguousarray(ids))


def reshape(
    ties: Ties, factors: Sequence[Factor], old: Sequence[int], new: Sequence[int], where: str
) -> list[Factor]:
    """Carry factors through a reshape; frozen where the reshape mixes them with each other."""
    blocks = _blocks(old, new)
    result = []
    for old_dims, new_dims in _joined(blocks, factors):
        inside = [f for f in factors if set(f.dims) & set(old_dims)]
        if not inside:
            continue
        if len(inside) > 1:
            inside.sort(key=lambda f: f.ids.size, reverse=True)
            for factor in inside[1:]:
                ties.freeze(factor.ids, "reshaped together with other axes", where)
        if math.prod(old[d] for d in old_dims) > MAX_JOINT:
            ties.freeze(inside[0].ids, "reshape too large to follow", where)
            continue
        full = [old[d] for d in old_dims]
        grid = np.broadcast_to(_aligned(inside[0].ids, inside[0].dims, old_dims), full)
        dims = [d for d in new_dims if new[d] > 1]
        result.append(Factor(tuple(dims), grid.reshape([new[d] for d in dims])))
    return result


def _blocks(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Runs of old and new axes with equal products, from left to right, as short as possible."""
    blocks, i, j = [], 0, 0
    while i < len(old) or j < len(new):
        left, right = [i] if i < len(old) else [], [j] if j < len(new) else []
        i, j = i + len(left), j + len(right)
        a, b = math.prod(old[d] for d in left), math.prod(new[d] for d in right)
        while a != b:
            if a < b:
                left.append(i)
                a, i = a * old[i], i + 1
            else:
                right.append(j)
                b, j = b * new[j], j + 1
        blocks.append((left, right))
    return blocks


def _joined(
    blocks: list[tuple[list[int], list[int]]], factors: Sequence[Factor]
) -> list[tuple[list[int], list[int]]]:
    """Blocks that one joint factor spans become one (their reshapes do not depend on each other)."""
    joined: list[tuple[list[int], list[int]]] = []
    for old_dims, new_dims in blocks:
        old_all, new_all = list(old_dims), list(new_dims)
        spanning = [f for f in factors if set(f.dims) & set(old_dims)]
        keep = []
        for before in joined:
            if any(set(f.dims) & set(before[0]) for f in spanning):
                old_all, new_all = before[0] + old_all, before[1] + new_all
            else:
                keep.append(before)
        joined = [*keep, (old_all, new_all)]
    return joined


def _clusters(
    factors: Sequence[tuple[tuple[Hashable, ...], Ints]],
) -> list[list[tuple[tuple[Hashable, ...], Ints]]]:
    """Factors that share a label, directly or through others."""
    clusters: list[list[tuple[tuple[Hashable, ...], Ints]]] = []
    for factor in factors:
        touching = [c for c in clusters if any(set(factor[0]) & set(labels) for labels, _ in c)]
        clusters = [c for c in clusters if c not in touching]
        clusters.append([*(f for c in touching for f in c), factor])
    return clusters


def _aligned(ids: Ints, labels: Sequence[Hashable], onto: Sequence[Hashable]) -> Ints:
    """`ids` with its axes in the order of `onto`, size 1 for the labels it has not."""
    order = sorted(range(len(labels)), key=lambda i: onto.index(labels[i]))
    sizes: Mapping[Hashable, int] = {labels[i]: ids.shape[i] for i in order}
    return ids.transpose(order).reshape([sizes.get(label, 1) for label in onto])
