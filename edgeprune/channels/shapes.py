"""Rules of ops that move, join, split or reduce axes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import fx

from edgeprune.channels.reading import (
    bind,
    broadcast,
    channels_only,
    dim_of,
    renumbered,
    unlabelled,
    without_axes,
)
from edgeprune.channels.ties import Factor, Operand, Ties, reshape, shape_of
from edgeprune.records import Ints


def same(node: fx.Node, ties: Ties) -> None:
    """The output has the input's axes."""
    ties.carry(node, ties.factors(node.all_input_nodes[0]))


def spatial(node: fx.Node, ties: Ties) -> None:
    """Pooling, padding and resizing: channels (axis 1) stay, the axes after them are mixed."""
    ties.carry(node, _over_space(node, ties))


def spatial_many(node: fx.Node, ties: Ties) -> None:
    """The same with several outputs: the values, and where they were found."""
    factors = _over_space(node, ties)
    ties.carry_many(node, [factors for _ in node.meta["val"]])


def _over_space(node: fx.Node, ties: Ties) -> list[Factor]:
    source = node.all_input_nodes[0]
    space = range(2, len(shape_of(source)))
    return without_axes(ties, node, source, space, "a spatial axis")


def view(node: fx.Node, ties: Ties) -> None:
    source = bind(node).self
    ties.carry(node, reshape(ties, ties.factors(source), shape_of(source), shape_of(node), node.name))


def expand(node: fx.Node, ties: Ties) -> None:
    source = bind(node).self
    operand = broadcast(ties, source, node, len(shape_of(node)))
    ties.carry(node, unlabelled(operand.factors))


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
    ties.carry(node, renumbered(without_axes(ties, node, a.self, gone, "a single channel"), left))


def repeat(node: fx.Node, ties: Ties) -> None:
    """Copies of the whole tensor side by side: a channel and its copies are one unit."""
    a = bind(node)
    rank = len(a.repeats)
    added = rank - len(shape_of(a.self))
    factors = []
    for factor in ties.factors(a.self):
        dims = tuple(d + added for d in factor.dims)
        times = [a.repeats[d] for d in dims]
        if all(isinstance(n, int) for n in times):
            factors.append(Factor(dims, np.tile(factor.ids, times)))
        else:
            ties.freeze(factor.ids, "repeated as often as there are images", node.name)
    ties.carry(node, factors)


def flip(node: fx.Node, ties: Ties) -> None:
    a = bind(node)
    dims = {dim_of(d, a.self) for d in a.dims}
    flipped = [
        Factor(f.dims, np.flip(f.ids, tuple(i for i, d in enumerate(f.dims) if d in dims)))
        for f in ties.factors(a.self)
    ]
    ties.carry(node, flipped)


def roll(node: fx.Node, ties: Ties) -> None:
    a = bind(node)
    dims = {dim_of(d, a.self) for d in a.dims} if a.dims else set(range(len(shape_of(a.self))))
    ties.carry(node, without_axes(ties, node, a.self, dims, "rolled along the axis"))


def reduce(node: fx.Node, ties: Ties) -> None:
    """Mean, sum, maximum: the axes reduced over cannot be cut (the value would change)."""
    a = bind(node)
    rank = len(shape_of(a.self))
    wanted = getattr(a, "dim", None)
    wanted = (
        range(rank) if wanted is None or wanted == [] else [wanted] if isinstance(wanted, int) else wanted
    )
    gone = {d % rank for d in wanted}
    keep = bool(getattr(a, "keepdim", False))
    left = list(range(rank)) if keep else [d for d in range(rank) if d not in gone]
    factors = renumbered(without_axes(ties, node, a.self, gone, "reduced over channels"), left)
    if isinstance(node.meta["val"], (tuple, list)):
        ties.carry_many(node, [factors for _ in node.meta["val"]])
    else:
        ties.carry(node, factors)


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
    ties.carry(node, [Factor((dim,), np.concatenate(stretches)), *merged])


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
        operands.append(
            Operand(labels, tuple((tuple(moved[d] for d in f.dims), f.ids) for f in ties.factors(part)))
        )
    ties.carry(node, unlabelled(ties.merge(operands, node.name)))


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
    ties.carry_many(node, outputs)


def narrow(node: fx.Node, ties: Ties) -> None:
    """x[start:end:step] along one axis."""
    a = bind(node)
    dim = dim_of(a.dim, a.self)
    size = shape_of(a.self)[dim]
    touched = [f for f in ties.factors(a.self) if dim in f.dims]
    plain = all(v is None or isinstance(v, int) for v in (a.start, a.end))
    if touched and (a.step != 1 or not plain):
        ties.carry(node, without_axes(ties, node, a.self, {dim}, "every n-th channel is taken"))
        return
    stretch = slice(a.start, a.end).indices(size) if plain else (0, size, 1)
    factors = [_cut(ties, node, f, dim, slice(stretch[0], stretch[1])) for f in ties.factors(a.self)]
    if touched and stretch != (0, size, 1):
        ties.segments += [f.ids for f in factors if f.dims == (dim,)]
    ties.carry(node, factors)


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
    whole = {f.dims: f.ids for f in ties.factors(a.self)}
    parts = {f.dims: f.ids for f in ties.factors(a.src)}
    for dims in set(whole) & set(parts):
        ties.tie(parts[dims], whole[dims][stretch] if dims == (dim,) else whole[dims])
    for dims in set(whole) ^ set(parts):
        ties.freeze(
            whole[dims] if dims in whole else parts[dims], "partly replaced by what cannot be cut", node.name
        )
    ties.carry(node, ties.factors(a.self))


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
    index = a.index if isinstance(a.index, int) else 0
    ties.carry(node, _picked(ties, node, a.self, dim_of(a.dim, a.self), index))


def unbind(node: fx.Node, ties: Ties) -> None:
    a = bind(node)
    dim = dim_of(a.dim, a.self)
    outputs = [_picked(ties, node, a.self, dim, index) for index in range(shape_of(a.self)[dim])]
    ties.carry_many(node, outputs)


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
    kept = without_axes(ties, node, a.self, indexed, "looked up by index")
    ties.carry(node, [Factor(tuple(moves[d] for d in f.dims), f.ids) for f in kept])


def pad(node: fx.Node, ties: Ties) -> None:
    """Zeros on a channel axis are channels of their own, with new identities; other axes carry none."""
    a = bind(node)
    rank = len(shape_of(a.self))
    amounts = {rank - 1 - i // 2: (a.pad[i], a.pad[i + 1]) for i in range(0, len(a.pad), 2)}
    factors = []
    for factor in ties.factors(a.self):
        padded = [d for d in factor.dims if amounts.get(d, (0, 0)) != (0, 0)]
        if not padded:
            factors.append(factor)
        elif (
            len(factor.dims) > 1
            or getattr(a, "mode", "constant") != "constant"
            or min(amounts[padded[0]]) < 0
        ):
            ties.freeze(factor.ids, "padded together with other axes", node.name)
        else:
            before, after = amounts[padded[0]]
            ids = np.concatenate([ties.fresh(before), factor.ids, ties.fresh(after)])
            factors.append(Factor(factor.dims, ids))
    ties.carry(node, factors)


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
            factors.append(first)
        else:
            factors.append(factor)
    ties.carry(node, factors)


def pixel_shuffle(node: fx.Node, ties: Ties) -> None:
    """Output channel c is made of input channels c*r*r ... c*r*r + r*r - 1."""
    a = bind(node)
    ids = channels_only(ties, node, a.self)
    if ids is not None:
        blocks = ids.reshape(shape_of(node)[1], -1)
        ties.tie_along(blocks, [1])
        ids = blocks[:, 0]
    ties.carry(node, [] if ids is None else [Factor((1,), ids)])


def pixel_unshuffle(node: fx.Node, ties: Ties) -> None:
    a = bind(node)
    ids = channels_only(ties, node, a.self)
    copies = shape_of(node)[1] // shape_of(a.self)[1]
    ties.carry(node, [] if ids is None else [Factor((1,), np.repeat(ids, copies))])


def unfold(node: fx.Node, ties: Ties) -> None:
    """Patches as columns: the pixels of a patch lie side by side, channel by channel."""
    a = bind(node)
    ids = channels_only(ties, node, a.self)
    ties.carry(node, [] if ids is None else [Factor((1,), np.repeat(ids, np.prod(a.kernel_size)))])


def windows(node: fx.Node, ties: Ties) -> None:
    """x.unfold: stretches of one axis, their places on a new last axis."""
    a = bind(node)
    ties.carry(node, without_axes(ties, node, a.self, {dim_of(a.dimension, a.self)}, "a spatial axis"))


def fold(node: fx.Node, ties: Ties) -> None:
    """The way back: overlapping patches are added up."""
    a = bind(node)
    ids = channels_only(ties, node, a.self)
    if ids is not None:
        patches = ids.reshape(-1, int(np.prod(a.kernel_size)))
        ties.tie_along(patches, [1])
        ids = patches[:, 0]
    ties.carry(node, [] if ids is None else [Factor((1,), np.ascontiguousarray(ids))])


def channel_shuffle(node: fx.Node, ties: Ties) -> None:
    """View as (groups, n), transpose, flatten: what is kept must be the same in every group."""
    a = bind(node)
    ids = channels_only(ties, node, a.self)
    if ids is not None:
        grid = ids.reshape(a.groups, -1)
        ties.tie_along(grid, [0])
        ids = grid.T.reshape(-1)
    ties.carry(node, [] if ids is None else [Factor((1,), np.ascontiguousarray(ids))])


def item(node: fx.Node, ties: Ties) -> None:
    """One of several outputs."""
    source, index = node.args
    assert isinstance(source, fx.Node) and isinstance(index, int)
    if source in ties.outputs and index < len(ties.outputs[source]):
        ties.carry(node, ties.outputs[source][index])


def ignore(node: fx.Node, ties: Ties) -> None:
    """Gives sizes or constants, no channels."""


def _moved(ties: Ties, node: fx.Node, source: fx.Node, moves: Mapping[int, int]) -> None:
    ties.carry(node, [sorted_factor(tuple(moves[d] for d in f.dims), f.ids) for f in ties.factors(source)])


def sorted_factor(dims: tuple[int, ...], ids: Ints) -> Factor:
    """A factor with its axes in the tensor's order."""
    order = sorted(range(len(dims)), key=dims.__getitem__)
    return Factor(tuple(dims[i] for i in order), ids.transpose(order))
