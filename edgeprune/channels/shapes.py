"""Rules of ops that move, join, split or reduce axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import fx

from edgeprune.channels.reading import bind, broadcast, dim_of, unlabelled, without_axes
from edgeprune.channels.ties import Factor, Operand, Ties, reshape, shape_of
from edgeprune.records import Ints


def same(node: fx.Node, ties: Ties) -> None:
    """The output has the input's axes."""
    ties.set(node, ties.factors(node.all_input_nodes[0]))


def same_many(node: fx.Node, ties: Ties) -> None:
    """Several outputs, each with the input's axes."""
    factors = ties.factors(node.all_input_nodes[0])
    ties.set_many(node, [factors for _ in node.meta["val"]])


def spatial(node: fx.Node, ties: Ties) -> None:
    """Pooling and resizing: channels stay, the last axes are mixed."""
    source = node.all_input_nodes[0]
    kept = {d for d, (a, b) in enumerate(zip(shape_of(source), shape_of(node), strict=True)) if a == b}
    mixed = {d for d in range(2, len(shape_of(source)))} | (set(range(len(shape_of(source)))) - kept)
    ties.set(node, without_axes(ties, node, ties.factors(source), mixed, "a spatial axis"))


def view(node: fx.Node, ties: Ties) -> None:
    source = bind(node).self
    ties.set(node, reshape(ties, ties.factors(source), shape_of(source), shape_of(node), node.name))


def expand(node: fx.Node, ties: Ties) -> None:
    source = bind(node).self
    operand = broadcast(ties, source, node, len(shape_of(node)))
    ties.set(node, unlabelled(operand.factors))


def permute(node: fx.Node, ties: Ties) -> None:
    a = bind(node)
    rank = len(shape_of(a.self))
    order = [d % rank for d in a.dims]
    _moved(ties, node, a.self, {old: new for new, old in enumerate(order)})


def transpose(node: fx.Node, ties: Ties) -> None:
    a = bind(node)
    one, two = dim_of(getattr(a, "dim0", 0), a.self), dim_of(getattr(a, "dim1", 1), a.self)
    moves = {d: d for d in range(len(shape_of(a.self)))} | {one: two, two: one}
    _moved(ties, node, a.self, moves)


def unsqueeze(node: fx.Node, ties: Ties) -> None:
    a = bind(node)
    rank = len(shape_of(a.self))
    place = a.dim % (rank + 1)
    _moved(ties, node, a.self, {d: d + (d >= place) for d in range(rank)})


def squeeze(node: fx.Node, ties: Ties) -> None:
    a = bind(node)
    shape = shape_of(a.self)
    wanted = getattr(a, "dim", None)
    wanted = range(len(shape)) if wanted is None else [wanted] if isinstance(wanted, int) else wanted
    gone = {d % len(shape) for d in wanted if shape[d] == 1}
    left = [d for d in range(len(shape)) if d not in gone]
    ties.set(node, without_axes(ties, node, ties.factors(a.self), gone, "a single channel", {d: i for i, d in enumerate(left)}))


def flip(node: fx.Node, ties: Ties) -> None:
    a = bind(node)
    dims = {dim_of(d, a.self) for d in a.dims}
    flipped = [Factor(f.dims, np.flip(f.ids, [i for i, d in enumerate(f.dims) if d in dims])) for f in ties.factors(a.self)]
    ties.set(node, flipped)


def roll(node: fx.Node, ties: Ties) -> None:
    a = bind(node)
    dims = {dim_of(d, a.self) for d in a.dims} if a.dims else set(range(len(shape_of(a.self))))
    ties.set(node, without_axes(ties, node, ties.factors(a.self), dims, "rolled along the axis"))


def reduce(node: fx.Node, ties: Ties) -> None:
    """Mean, sum, maximum: the axes reduced over cannot be cut (the value would change)."""
    a = bind(node)
    rank = len(shape_of(a.self))
    wanted = getattr(a, "dim", None)
    wanted = range(rank) if wanted is None or wanted == [] else [wanted] if isinstance(wanted, int) else wanted
    gone = {d % rank for d in wanted}
    keep = bool(getattr(a, "keepdim", False))
    left = list(range(rank)) if keep else [d for d in range(rank) if d not in gone]
    factors = without_axes(ties, node, ties.factors(a.self), gone, "reduced over channels", {d: i for i, d in enumerate(left)})
    if isinstance(node.meta["val"], (tuple, list)):
        ties.set_many(node, [factors for _ in node.meta["val"]])
    else:
        ties.set(node, factors)


def concat(node: fx.Node, ties: Ties) -> None:
    """Each part owns one stretch of the output, in order; a solid part gets frozen identities."""
    a = bind(node)
    parts = [p for p in a.tensors if shape_of(p) != (0,)]
    dim = dim_of(a.dim, parts[0])
    other, stretches = [], []
    for part in parts:
        stretches.append(_stretch(ties, node, part, dim))
        labels = frozenset(d for d, size in enumerate(shape_of(part)) if d != dim and size > 1)
        rest = tuple((f.dims, f.ids) for f in ties.factors(part) if dim not in f.dims)
        other.append(Operand(labels, rest))
    merged = unlabelled(ties.merge(other, node.name))
    ties.set(node, [Factor((dim,), np.concatenate(stretches)), *merged])


def _stretch(ties: Ties, node: fx.Node, part: fx.Node, dim: int) -> Ints:
    ids = ties.axis(part, dim)
    if ids is None:
        ids = ties.fresh(shape_of(part)[dim])
        ties.freeze(ids, "joined with an input that cannot be cut", node.name)
    return ids


def stack(node: fx.Node, ties: Ties) -> None:
    """The parts are tied; the new axis is solid."""
    a = bind(node)
    rank = len(shape_of(node))
    place = a.dim % rank
    operands = []
    for part in a.tensors:
        moved = {d: d + (d >= place) for d in range(rank - 1)}
        labels = frozenset(moved[d] for d, size in enumerate(shape_of(part)) if size > 1)
        operands.append(Operand(labels, tuple((tuple(moved[d] for d in f.dims), f.ids) for f in ties.factors(part))))
    ties.set(node, unlabelled(ties.merge(operands, node.name)))


def split(node: fx.Node, ties: Ties) -> None:
    """Each piece owns its stretch, and keeps at least one channel."""
    a = bind(node)
    dim = dim_of(a.dim, a.self)
    outputs, start = [], 0
    for piece in node.meta["val"]:
        size = int(piece.shape[dim]) if isinstance(piece.shape[dim], int) else shape_of(a.self)[dim]
        outputs.append([_cut(ties, node, f, dim, slice(start, start + size)) for f in ties.factors(a.self)])
        start += size
    for pieces in outputs:
        ties.segments += [f.ids for f in pieces if f.dims == (dim,)]
    ties.set_many(node, outputs)


def narrow(node: fx.Node, ties: Ties) -> None:
    """x[start:end:step] along one axis."""
    a = bind(node)
    dim = dim_of(a.dim, a.self)
    size = shape_of(a.self)[dim]
    touched = [f for f in ties.factors(a.self) if dim in f.dims]
    plain = all(v is None or isinstance(v, int) for v in (a.start, a.end))
    if touched and (a.step != 1 or not plain):
        ties.set(node, without_axes(ties, node, ties.factors(a.self), {dim}, "every n-th channel is taken"))
        return
    stretch = slice(a.start, a.end).indices(size) if plain else (0, size, 1)
    factors = [_cut(ties, node, f, dim, slice(stretch[0], stretch[1])) for f in ties.factors(a.self)]
    if touched and stretch != (0, size, 1):
        ties.segments += [f.ids for f in factors if f.dims == (dim,)]
    ties.set(node, factors)


def slice_scatter(node: fx.Node, ties: Ties) -> None:
    """The input with one stretch of one axis replaced."""
    a = bind(node)
    dim = dim_of(a.dim, a.self)
    touched = [f for f in (*ties.factors(a.self), *ties.factors(a.src)) if dim in f.dims]
    plain = a.step == 1 and all(v is None or isinstance(v, int) for v in (a.start, a.end))
    if not plain or any(len(f.dims) > 1 for f in touched):
        ties.freeze_all(node, "every n-th channel is replaced")
        return
    stretch = slice(*slice(a.start, a.end).indices(shape_of(a.self)[dim])[:2])
    whole = {f.dims: f for f in ties.factors(a.self)}
    for factor in ties.factors(a.src):
        if factor.dims in whole:
            ties.tie(factor.ids, _cut(ties, node, whole[factor.dims], dim, stretch).ids)
        else:
            ties.freeze(factor.ids, "replaces a part that cannot be cut", node.name)
    ties.set(node, list(whole.values()))


def _cut(ties: Ties, node: fx.Node, factor: Factor, dim: int, stretch: slice) -> Factor:
    if dim not in factor.dims:
        return factor
    index = tuple(stretch if d == dim else slice(None) for d in factor.dims)
    if len(factor.dims) > 1 and factor.ids[index].shape != factor.ids.shape:
        ties.tie_along(factor.ids, [factor.dims.index(dim)])  # e.g. q, k, v of a fused projection
    return Factor(factor.dims, np.ascontiguousarray(factor.ids[index]))


def select(node: fx.Node, ties: Ties) -> None:
    """x[:, i]: the axis goes; where it held channels they are frozen (the index is a constant)."""
    a = bind(node)
    _taken(ties, node, a.self, dim_of(a.dim, a.self), [a.index])


def unbind(node: fx.Node, ties: Ties) -> None:
    a = bind(node)
    dim = dim_of(a.dim, a.self)
    outputs = [_picked(ties, node, a.self, dim, index) for index in range(shape_of(a.self)[dim])]
    ties.set_many(node, outputs)


def _taken(ties: Ties, node: fx.Node, source: fx.Node, dim: int, indices: Sequence[object]) -> None:
    index = indices[0] if isinstance(indices[0], int) else 0
    ties.set(node, _picked(ties, node, source, dim, index))


def _picked(ties: Ties, node: fx.Node, source: fx.Node, dim: int, index: int) -> list[Factor]:
    factors = []
    for factor in ties.factors(source):
        dims = tuple(d - (d > dim) for d in factor.dims if d != dim)
        if dim not in factor.dims:
            factors.append(Factor(dims, factor.ids))
        elif not dims:
            ties.freeze(factor.ids, "taken out by its index", node.name)
        else:
            place = factor.dims.index(dim)
            ties.tie_along(factor.ids, [place])
            factors.append(Factor(dims, np.take(factor.ids, index, axis=place)))
    return factors


def gather_rows(node: fx.Node, ties: Ties) -> None:
    """x[indices]: indexed axes are frozen; axes after one leading index tensor stay."""
    a = bind(node)
    given = [(d, i) for d, i in enumerate(a.indices) if i is not None]
    indexed = {d for d, _ in given}
    for _, index in given:
        for factor in ties.factors(index):
            ties.freeze(factor.ids, "used as an index", node.name)
    if [d for d, _ in given] != list(range(given[0][0], given[0][0] + len(given))):
        ties.freeze_all(node, "indexed along separate axes")
        return
    added = len(shape_of(node)) - (len(shape_of(a.self)) - len(given))
    first = given[0][0]
    moves = {d: d if d < first else d - len(given) + added for d in range(len(shape_of(a.self)))}
    ties.set(node, without_axes(ties, node, ties.factors(a.self), indexed, "looked up by index", moves))


def pad(node: fx.Node, ties: Ties) -> None:
    """Zeros on a channel axis are channels of their own, with new identities; spatial padding changes nothing."""
    a = bind(node)
    rank = len(shape_of(a.self))
    amounts = {rank - 1 - i // 2: (a.pad[i], a.pad[i + 1]) for i in range(0, len(a.pad), 2)}
    factors = []
    for factor in ties.factors(a.self):
        padded = [d for d in factor.dims if amounts.get(d, (0, 0)) != (0, 0)]
        if not padded:
            factors.append(factor)
        elif len(factor.dims) > 1 or getattr(a, "mode", "constant") != "constant" or min(amounts[padded[0]]) < 0:
            ties.freeze(factor.ids, "padded together with other axes", node.name)
        else:
            before, after = amounts[padded[0]]
            ids = np.concatenate([ties.fresh(before), factor.ids, ties.fresh(after)])
            factors.append(Factor(factor.dims, ids))
    ties.set(node, factors)


def glu(node: fx.Node, ties: Ties) -> None:
    """First half times the gate of the second half."""
    a = bind(node)
    dim = dim_of(a.dim, a.self)
    half = shape_of(node)[dim]
    factors = []
    for factor in ties.factors(a.self):
        if dim in factor.dims:
            first = _cut(ties, node, factor, dim, slice(0, half))
            ties.tie(first.ids, _cut(ties, node, factor, dim, slice(half, 2 * half)).ids)
            factor = first
        factors.append(factor)
    ties.set(node, factors)


def pixel_shuffle(node: fx.Node, ties: Ties) -> None:
    """Output channel c is made of input channels c*r*r ... c*r*r + r*r - 1."""
    a = bind(node)
    ids = ties.axis(a.self, 1)
    if ids is not None:
        blocks = ids.reshape(shape_of(node)[1], -1)
        ties.tie_along(blocks, [1])
        ids = blocks[:, 0]
    ties.set(node, [] if ids is None else [Factor((1,), ids)])


def pixel_unshuffle(node: fx.Node, ties: Ties) -> None:
    a = bind(node)
    ids = ties.axis(a.self, 1)
    copies = shape_of(node)[1] // shape_of(a.self)[1]
    ties.set(node, [] if ids is None else [Factor((1,), np.repeat(ids, copies))])


def channel_shuffle(node: fx.Node, ties: Ties) -> None:
    """View as (groups, n), transpose, flatten: what is kept must be the same in every group."""
    a = bind(node)
    ids = ties.axis(a.self, 1)
    if ids is not None:
        grid = ids.reshape(a.groups, -1)
        ties.tie_along(grid, [0])
        ids = grid.T.reshape(-1)
    ties.set(node, [] if ids is None else [Factor((1,), np.ascontiguousarray(ids))])


def item(node: fx.Node, ties: Ties) -> None:
    """One of several outputs."""
    source, index = node.args
    assert isinstance(source, fx.Node) and isinstance(index, int)
    if source in ties.outputs and index < len(ties.outputs[source]):
        ties.set(node, ties.outputs[source][index])


def ignore(node: fx.Node, ties: Ties) -> None:
    """Gives sizes or constants, no channels."""


def _moved(ties: Ties, node: fx.Node, source: fx.Node, moves: Mapping[int, int]) -> None:
    ties.set(node, [sorted_factor(tuple(moves[d] for d in f.dims), f.ids) for f in ties.factors(source)])


def sorted_factor(dims: tuple[int, ...], ids: Ints) -> Factor:
    """A factor with its axes in the tensor's order."""
    order = sorted(range(len(dims)), key=dims.__getitem__)
    return Factor(tuple(dims[i] for i in order), ids.transpose(order))
