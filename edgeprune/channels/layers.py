"""Rules of layers with weights, and of normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
from torch import fx

from edgeprune.channels.reading import bind, channels_only, dim_of, tie_or_freeze, without_axes
from edgeprune.channels.ties import Factor, Ties, shape_of
from edgeprune.records import Ints

NORMALISED = "normalised over channels"


def convolution(node: fx.Node, ties: Ties) -> None:
    """Input channels: weight axis 1, summed over. Output channels: weight axis 0 and bias."""
    a = bind(node)
    given, out = channels_only(ties, node, a.input), ties.weight_axis(a.weight, 0)
    if a.groups > 1:
        ties.multiplies(a.weight, _area(node))
        _grouped(node, ties, a, given, out)
    else:
        _contract(node, ties, given, ties.sums_over(a.weight, 1, _area(node)))
    _tie_bias(ties, a.bias, out)
    ties.carry(node, [Factor((1,), out)])


def transposed_convolution(node: fx.Node, ties: Ties) -> None:
    """As convolution, with the weight's axes swapped: (inputs, outputs / groups, ...)."""
    a = bind(node)
    given = channels_only(ties, node, a.input)
    if a.groups > 1:
        out = ties.fresh(shape_of(node)[1])
        ties.multiplies(a.weight, _area(a.input))
        tie_or_freeze(ties, given, ties.weight_axis(a.weight, 0), node)
        _whole_groups(node, ties, a, given, out)
    else:
        _contract(node, ties, given, ties.sums_over(a.weight, 0, _area(a.input)))
        out = ties.weight_axis(a.weight, 1)
    _tie_bias(ties, a.bias, out)
    ties.carry(node, [Factor((1,), out)])


def _grouped(node: fx.Node, ties: Ties, a: SimpleNamespace, given: Ints | None, out: Ints) -> None:
    """Whole groups (depthwise: each channel), or the same index in every group: what gives more units."""
    inner = ties.weight_axis(a.weight, 1)
    if given is None or a.groups >= len(inner):
        _whole_groups(node, ties, a, given, out)
    else:
        ties.tie(given.reshape(a.groups, -1), ties.sums_over(a.weight, 1, 0.0)[None, :])
        ties.tie_along(out.reshape(a.groups, -1), [0])


def _whole_groups(node: fx.Node, ties: Ties, a: SimpleNamespace, given: Ints | None, out: Ints) -> None:
    """The inputs and outputs of one convolution group go together."""
    ties.freeze(ties.weight_axis(a.weight, 1), "inside a convolution group", node.name)
    if given is None:
        ties.freeze(out, "grouped convolution of an input that cannot be cut", node.name)
        return
    inputs, outputs = given.reshape(a.groups, -1), out.reshape(a.groups, -1)
    ties.tie_along(inputs, [1])
    ties.tie_along(outputs, [1])
    ties.tie(inputs[:, 0], outputs[:, 0])


def linear(node: fx.Node, ties: Ties) -> None:
    """Last axis of the input: weight axis 1, summed over. Last axis of the output: weight axis 0 and bias."""
    a = bind(node)
    last = len(shape_of(a.input)) - 1
    given = ties.axis(a.input, last)
    _contract(node, ties, given, ties.sums_over(a.weight, 1, float(np.prod(shape_of(node)[1:-1]))))
    out = ties.weight_axis(a.weight, 0)
    _tie_bias(ties, a.bias, out)
    others = [f for f in ties.factors(a.input) if last not in f.dims]
    ties.carry(node, [*others, Factor((last,), out)])


def embedding(node: fx.Node, ties: Ties) -> None:
    """Rows are looked up by index and stay; columns are the output's last axis."""
    a = bind(node)
    ties.freeze(ties.weight_axis(a.weight, 0), "looked up by index", node.name)
    ties.carry(node, [Factor((len(shape_of(node)) - 1,), ties.weight_axis(a.weight, 1))])


def weight_norm(node: fx.Node, ties: Ties) -> None:
    """A direction, divided by its length, times a length for each index of one axis: that axis can be cut."""
    a = bind(node)
    kept = dim_of(a.dim, a.v)
    ids = ties.axis(a.v, kept)
    other = [d for d in range(len(shape_of(a.v))) if d != kept]
    ties.carry(node, without_axes(ties, node, a.v, other, NORMALISED))
    if ids is not None:
        tie_or_freeze(ties, ids, ties.weight_axis(a.g, kept), node)


def _contract(node: fx.Node, ties: Ties, given: Ints | None, ids: Ints) -> None:
    if given is not None:
        ties.tie(given, ids)
        return
    from_input = any(n.op == "placeholder" for n in node.all_input_nodes)
    ties.freeze(ids, "the network's input" if from_input else "its input cannot be cut", node.name)


def _tie_bias(ties: Ties, bias: fx.Node | None, out: Ints) -> None:
    if bias is not None:
        ties.tie(ties.weight_axis(bias, 0), out)


def _area(node: fx.Node) -> float:
    return float(np.prod(shape_of(node)[2:]))


def batch_norm(node: fx.Node, ties: Ties) -> None:
    """Per channel: weight, bias and statistics go with the channel."""
    a = bind(node)
    _per_channel(ties, node, ties.axis(a.input, 1), (a.weight, a.bias, a.running_mean, a.running_var))
    ties.carry_many(node, [ties.factors(a.input)])


def batch_norm_without_statistics(node: fx.Node, ties: Ties) -> None:
    """The statistics are those of the batch, per channel; weights are standardised by it too."""
    a = bind(node)
    ids = channels_only(ties, node, a.input)
    _per_channel(ties, node, ids, (a.weight, a.bias))
    ties.carry_many(node, [[] if ids is None else [Factor((1,), ids)]])


def instance_norm(node: fx.Node, ties: Ties) -> None:
    """As batch_norm; the statistics may run over the spatial axes."""
    a = bind(node)
    ids = channels_only(ties, node, a.input)
    _per_channel(ties, node, ids, (a.weight, a.bias, a.running_mean, a.running_var))
    ties.carry(node, [] if ids is None else [Factor((1,), ids)])


def group_norm(node: fx.Node, ties: Ties) -> None:
    """The statistics run over the channels of a group: groups are removed whole."""
    a = bind(node)
    ids = channels_only(ties, node, a.input)
    if ids is not None and a.num_groups == 1:
        ties.freeze(ids, NORMALISED, node.name)
    elif ids is not None:
        ties.tie_along(ids.reshape(a.num_groups, -1), [1])
    _per_channel(ties, node, ids, (a.weight, a.bias))
    ties.carry(node, [] if ids is None else [Factor((1,), ids)])


def layer_norm(node: fx.Node, ties: Ties) -> None:
    """The statistics run over the channels: removing one changes all others, so they are frozen."""
    a = bind(node)
    rank = len(shape_of(a.input))
    dims = range(rank - len(a.normalized_shape), rank)
    alone = {f.dims[0]: f.ids for f in ties.factors(a.input) if len(f.dims) == 1}
    for vector in filter(None, (a.weight, getattr(a, "bias", None))):
        for axis, dim in enumerate(dims):
            tie_or_freeze(ties, alone.get(dim), ties.weight_axis(vector, axis), node)
    ties.carry(node, without_axes(ties, node, a.input, dims, NORMALISED))


def _per_channel(ties: Ties, node: fx.Node, ids: Ints | None, vectors: Sequence[fx.Node | None]) -> None:
    for vector in vectors:
        if vector is not None:
            tie_or_freeze(ties, ids, ties.weight_axis(vector, 0), node)


def softmax(node: fx.Node, ties: Ties) -> None:
    """Entries along the softmax axis depend on each other."""
    a = bind(node)
    ties.carry(node, without_axes(ties, node, a.self, {dim_of(a.dim, a.self)}, "a softmax axis"))
