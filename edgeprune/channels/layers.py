"""Rules of layers with weights, and of normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import torch
from torch import fx

from edgeprune.channels.reading import bind, tie_or_freeze, dim_of, without_axes
from edgeprune.channels.ties import Factor, Operand, Ties, reshape, shape_of
from edgeprune.records import Ints


def convolution(node: fx.Node, ties: Ties) -> None:
    """Input channels: weight axis 1, summed over. Output channels: weight axis 0 and bias."""
    a = bind(node)
    given, out = ties.axis(a.input, 1), ties.weight_axis(a.weight, 0)
    if a.groups > 1:
        _grouped(node, ties, a, given, out)
    else:
        _contract(node, ties, given, ties.sums_over(a.weight, 1, _area(node)))
    _tie_bias(ties, a.bias, out)
    _spatial_stays(node, ties, a.input)
    ties.set(node, [Factor((1,), out)])


def transposed_convolution(node: fx.Node, ties: Ties) -> None:
    """As convolution, with the weight's axes swapped: (inputs, outputs / groups, ...)."""
    a = bind(node)
    given = ties.axis(a.input, 1)
    if a.groups > 1:
        out = _grouped_transposed(node, ties, a, given)
    else:
        _contract(node, ties, given, ties.sums_over(a.weight, 0, _area(a.input)))
        out = ties.weight_axis(a.weight, 1)
    _tie_bias(ties, a.bias, out)
    _spatial_stays(node, ties, a.input)
    ties.set(node, [Factor((1,), out)])


def _grouped_transposed(node: fx.Node, ties: Ties, a: SimpleNamespace, given: Ints | None) -> Ints:
    """Depthwise: one tie per channel. Otherwise the channels stay as they are."""
    rows, columns = ties.weight_axis(a.weight, 0), ties.weight_axis(a.weight, 1)
    ties.multiplies(a.weight, _area(a.input))
    if a.groups == len(rows) and len(columns) == 1 and given is not None:
        ties.tie(given, rows)
        return rows
    out = ties.fresh(shape_of(node)[1])
    for ids in (given, rows, columns, out):
        if ids is not None:
            ties.freeze(ids, "grouped transposed convolution", node.name)
    return out


def _grouped(node: fx.Node, ties: Ties, a: SimpleNamespace, given: Ints | None, out: Ints) -> None:
    """Depthwise: channel by channel. Else whole groups, or the same index in every group: what gives more units."""
    inner = ties.weight_axis(a.weight, 1)
    ties.multiplies(a.weight, _area(node))
    if given is None:
        ties.freeze(out, "grouped convolution of an input that cannot be cut", node.name)
        ties.freeze(inner, "inside a convolution group", node.name)
        return
    ins, outs = given.reshape(a.groups, -1), out.reshape(a.groups, -1)
    if a.groups >= len(inner):
        ties.tie_along(ins, [1])
        ties.tie_along(outs, [1])
        ties.tie(ins[:, 0], outs[:, 0])
        ties.freeze(inner, "inside a convolution group", node.name)
    else:
        ties.tie(ins, ties.sums_over(a.weight, 1, 0.0)[None, :])
        ties.tie_along(outs, [0])


def linear(node: fx.Node, ties: Ties) -> None:
    """Last axis of the input: weight axis 1, summed over. Last axis of the output: weight axis 0 and bias."""
    a = bind(node)
    last = len(shape_of(a.input)) - 1
    given = ties.axis(a.input, last)
    _contract(node, ties, given, ties.sums_over(a.weight, 1, float(np.prod(shape_of(node)[1:-1]))))
    out = ties.weight_axis(a.weight, 0)
    _tie_bias(ties, a.bias, out)
    others = [f for f in ties.factors(a.input) if last not in f.dims]
    ties.set(node, [*others, Factor((last,), out)])


def embedding(node: fx.Node, ties: Ties) -> None:
    """Rows are looked up by index and stay; columns are the output's last axis."""
    a = bind(node)
    ties.freeze(ties.weight_axis(a.weight, 0), "looked up by index", node.name)
    ties.set(node, [Factor((len(shape_of(node)) - 1,), ties.weight_axis(a.weight, 1))])


def _contract(node: fx.Node, ties: Ties, given: Ints | None, ids: Ints) -> None:
    if given is not None:
        ties.tie(given, ids)
        return
    from_input = any(n.op == "placeholder" for n in node.all_input_nodes)
    ties.freeze(ids, "the network's input" if from_input else "its input cannot be cut", node.name)


def _tie_bias(ties: Ties, bias: fx.Node | None, out: Ints) -> None:
    if bias is not None:
        ties.tie(ties.weight_axis(bias, 0), out)


def _spatial_stays(node: fx.Node, ties: Ties, source: fx.Node) -> None:
    for factor in ties.factors(source):
        if 1 not in factor.dims:
            ties.freeze(factor.ids, "a spatial axis", node.name)


def _area(node: fx.Node) -> float:
    return float(np.prod(shape_of(node)[2:]))


def batch_norm(node: fx.Node, ties: Ties) -> None:
    """Per channel: weight, bias and statistics go with the channel."""
    a = bind(node)
    ids = ties.axis(a.input, 1)
    others = [n for n in (a.weight, a.bias, a.running_mean, a.running_var) if n is not None]
    for other in others:
        own = ties.weight_axis(other, 0)
        if ids is None:
            ties.freeze(own, "its input cannot be cut", node.name)
        else:
            ties.tie(own, ids)
    ties.set_many(node, [ties.factors(a.input)])


def layer_norm(node: fx.Node, ties: Ties) -> None:
    """The statistics run over the channels: removing one changes all others, so they are frozen."""
    a = bind(node)
    rank = len(shape_of(a.input))
    dims = range(rank - len(a.normalized_shape), rank)
    for factor in ties.factors(a.input):
        if set(factor.dims) & set(dims):
            ties.freeze(factor.ids, "normalised over channels", node.name)
    for other in (a.weight, a.bias):
        if other is not None:
            for axis, dim in enumerate(dims):
                tie_or_freeze(ties, ties.axis(a.input, dim), ties.weight_axis(other, axis), node)
    ties.set(node, ties.factors(a.input))


def group_norm(node: fx.Node, ties: Ties) -> None:
    """As layer_norm, over groups of channels."""
    a = bind(node)
    for factor in ties.factors(a.input):
        ties.freeze(factor.ids, "normalised over channels", node.name)
    for other in (a.weight, a.bias):
        if other is not None:
            tie_or_freeze(ties, ties.axis(a.input, 1), ties.weight_axis(other, 0), node)
    ties.set(node, ties.factors(a.input))


def softmax(node: fx.Node, ties: Ties) -> None:
    """Entries along the softmax axis depend on each other."""
    a = bind(node)
    ties.set(node, without_axes(ties, node, ties.factors(a.self), {dim_of(a.dim, a.self)}, "a softmax axis"))
