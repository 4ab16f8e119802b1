"""Rules of elementwise ops, of products between tensors, and of attention."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Mapping, Sequence

from torch import fx

from edgeprune.channels.heads import cut_widths
from edgeprune.channels.reading import bind, broadcast, first_along, is_tensor, tie_or_freeze, unlabelled
from edgeprune.channels.ties import Factor, Operand, Ties, shape_of
from edgeprune.records import Ints

Term = tuple[fx.Node, Sequence[Hashable]]
"""A tensor of a product, and the label of each of its axes."""


def pointwise(node: fx.Node, ties: Ties) -> None:
    """Operands are broadcast against each other; what meets is tied."""
    rank = len(shape_of(node))
    operands = [broadcast(ties, n, node, rank) for n in node.all_input_nodes if is_tensor(n)]
    ties.carry(node, unlabelled(ties.merge(operands, node.name)))


def prelu(node: fx.Node, ties: Ties) -> None:
    """One slope per channel (axis 1), or one for all."""
    a = bind(node)
    if shape_of(a.weight) == (1,):
        ties.carry(node, ties.factors(a.self))
        return
    tie_or_freeze(ties, ties.axis(a.self, 1), ties.weight_axis(a.weight, 0), node)
    ties.carry(node, ties.factors(a.self))


def matmul(node: fx.Node, ties: Ties) -> None:
    a = bind(node)
    other = getattr(a, "other", None) or a.mat2
    rank = max(len(shape_of(a.self)), len(shape_of(other)))
    if 1 in (len(shape_of(a.self)), len(shape_of(other))):
        ties.freeze_all(node, "product with a vector")
        return
    left = [*range(rank - len(shape_of(a.self)), rank - 1), "k"]
    right = [*range(rank - len(shape_of(other)), rank - 2), "k", rank - 1]
    contract(node, ties, [(a.self, left), (other, right)], list(range(rank)))


def einsum(node: fx.Node, ties: Ties) -> None:
    a = bind(node)
    equation = a.equation.replace(" ", "")
    if "..." in equation or "->" not in equation:
        ties.freeze_all(node, "an einsum with implied axes")
        return
    inputs, output = equation.split("->")
    labels = [list(part) for part in inputs.split(",")]
    if any(len(set(part)) < len(part) for part in labels):
        ties.freeze_all(node, "an einsum along a diagonal")
        return
    contract(node, ties, list(zip(a.tensors, labels, strict=True)), list(output))


def contract(node: fx.Node, ties: Ties, terms: Sequence[Term], out: Sequence[Hashable]) -> None:
    """A product of tensors summed over the labels that `out` lacks.

    An attention score sums over the width of a head: heads are cut whole, so the width is tied. Where the
    width is cut instead, heads are not.
    """
    summed = {label for _, labels in terms for label in labels} - set(out)
    sizes = dict(zip(out, shape_of(node), strict=True))
    narrow = cut_widths(ties, terms, summed)
    operands = [_without(ties, node, term, summed, sizes, narrow=narrow) for term in terms]
    for label in sorted(summed, key=str):
        _contract_label(ties, node, terms, label)
    for value, labels in terms:
        ties.multiplies(value, math.prod(float(sizes[label]) for label in out[1:] if label not in labels))
    position = {label: dim for dim, label in enumerate(out)}
    merged = ties.merge(operands, node.name)
    ties.carry(node, [Factor(tuple(position[name] for name in labels), ids) for labels, ids in merged])


def _without(  # noqa: PLR0913  # one argument for each thing that only the product knows
    ties: Ties,
    node: fx.Node,
    term: Term,
    summed: Collection[Hashable],
    sizes: Mapping[Hashable, int],
    *,
    narrow: bool = False,
) -> Operand:
    """An operand of a contraction as it meets the others, joint factors tied over the summed axes.

    Args:
        narrow: Joint factors are cut along the summed axes, and nowhere else.
    """
    value, labels = term
    shape = shape_of(value)
    spans = [lab for d, lab in enumerate(labels) if lab not in summed and shape[d] == sizes[lab]]
    factors = []
    for factor in ties.factors(value):
        names = [labels[d] for d in factor.dims]
        gone = [i for i, name in enumerate(names) if name in summed]
        if len(gone) == len(names):
            if len(names) > 1:
                ties.freeze(factor.ids, "summed over several axes at once", node.name)
            continue
        if gone and narrow:
            continue
        if any(name not in summed and name not in spans for name in names):
            ties.freeze(factor.ids, "broadcast over another axis", node.name)
            continue
        ties.tie_along(factor.ids, gone)
        kept = tuple(name for name in names if name not in summed)
        factors.append((kept, first_along(factor.ids, gone)))
    return Operand(frozenset(spans), tuple(factors))


def _contract_label(ties: Ties, node: fx.Node, terms: Sequence[Term], label: Hashable) -> None:
    found: list[Ints] = []
    weights, solid = 0, False
    for value, labels in terms:
        if label not in labels:
            continue
        dim = list(labels).index(label)
        alone = [f.ids for f in ties.factors(value) if f.dims == (dim,)]
        found += alone
        solid |= not alone  # without identities of its own, or joint with other axes
        if value.op == "get_attr":
            weights += 1
            ties.consumers.add((str(value.target), dim))
    for ids in found:
        if solid or weights != 1:
            ties.freeze(ids, "summed between activations", node.name)
        else:
            ties.tie(ids, found[0])


def attention(node: fx.Node, ties: Ties) -> None:
    """Heads are cut whole: query, key and value of a head go together, whatever their width.

    Or the width is cut, the same in every head. Heads of the query that share a key and value stay.
    """
    a = bind(node)
    rank = len(shape_of(node))
    if a.enable_gqa and shape_of(a.query)[:-2] != shape_of(a.key)[:-2]:
        ties.freeze_all(node, "heads that share keys and values")
        return
    heads = list(range(rank - 2))
    terms: list[Term] = [
        (a.query, [*heads, "l", "d"]),
        (a.key, [*heads, "s", "d"]),
        (a.value, [*heads, "s", rank - 1]),
    ]
    operands = []
    sizes: dict[Hashable, int] = dict(enumerate(shape_of(node)))
    narrow = cut_widths(ties, terms[:2], {"d"})
    for value, labels in terms:
        for factor in ties.factors(value):
            if any(labels[d] in ("l", "s") for d in factor.dims):
                ties.freeze(factor.ids, "a token axis", node.name)
        operands.append(_without(ties, node, (value, labels), {"l", "s", "d"}, sizes, narrow=narrow))
    _contract_label(ties, node, terms[:2], "d")
    if a.attn_mask is not None:
        operands.append(broadcast(ties, a.attn_mask, node, rank, skip={rank - 2, rank - 1}))
    merged = ties.merge(operands, node.name)
    for names, ids in merged:
        if rank - 1 in names and len(names) > 1 and not narrow:
            ties.tie_along(ids, [names.index(rank - 1)])
    ties.carry(node, unlabelled(merged))
