"""Folds BatchNorm into the convolution before it, so that a replay runs one op for two."""

from __future__ import annotations

import copy
import operator
from collections import Counter

import torch
from torch import Tensor, fx

aten = torch.ops.aten
CONVOLUTIONS = (
    *(aten.conv1d.default, aten.conv2d.default, aten.conv3d.default),
    *(aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding),
)
NORM = aten._native_batch_norm_legit_no_training.default


def folded(graph: fx.GraphModule) -> fx.GraphModule:
    """A copy of a traced network without the BatchNorms that directly follow a convolution.

    Output rows of the convolution's weight are scaled, so that zeroing some of its input columns later masks
    the same channels as before. Parameters keep their names.
    """
    result = copy.deepcopy(graph)
    reads = Counter(str(node.target) for node in _nodes(result, "get_attr") for _ in node.users)
    for norm in _nodes(result, "call_function"):
        if norm.target is NORM and _foldable(norm, reads):
            _fold_(result, norm)
    result.recompile()
    return result


def attribute(graph: fx.GraphModule, node: fx.Node) -> Tensor:
    """The tensor that a `get_attr` node reads."""
    found: object = graph
    for part in str(node.target).split("."):
        found = getattr(found, part)
    assert isinstance(found, Tensor)
    return found


def _nodes(graph: fx.GraphModule, kind: str) -> list[fx.Node]:
    return [node for node in graph.graph.nodes if node.op == kind]


def _foldable(norm: fx.Node, reads: Counter[str]) -> bool:
    """The convolution feeds nothing else, shares its weight with none, and only normed values are read."""
    conv = norm.args[0]
    if not isinstance(conv, fx.Node) or conv.target not in CONVOLUTIONS or len(conv.users) > 1:
        return False
    weight = conv.args[1]
    alone = isinstance(weight, fx.Node) and weight.op == "get_attr" and reads[str(weight.target)] == 1
    return alone and all(user.target is operator.getitem and user.args[1] == 0 for user in norm.users)


def _fold_(graph: fx.GraphModule, norm: fx.Node) -> None:
    conv, gamma, beta, mean, variance, _, eps = norm.args
    assert isinstance(conv, fx.Node)
    assert isinstance(eps, float)
    source, weight_node, old_bias, *rest = (*conv.args, None)[: max(3, len(conv.args))]
    weight, average = _tensor(graph, weight_node), _tensor(graph, mean)
    zero, one = torch.zeros_like(average), torch.ones_like(average)
    scale = _tensor(graph, gamma, one) / torch.sqrt(_tensor(graph, variance) + eps)
    weight.data = weight.data * scale.reshape(-1, *[1] * (weight.ndim - 1))
    bias = (_tensor(graph, old_bias, zero) - average) * scale + _tensor(graph, beta, zero)
    name = f"{conv.name}_folded_bias"
    graph.register_buffer(name, bias)
    with graph.graph.inserting_before(conv):
        conv.args = (source, weight_node, graph.graph.get_attr(name), *rest)
    for reader in list(norm.users):
        reader.replace_all_uses_with(conv)
        graph.graph.erase_node(reader)
    graph.graph.erase_node(norm)


def _tensor(graph: fx.GraphModule, node: object, otherwise: Tensor | None = None) -> Tensor:
    """The tensor behind an argument, or the other one where there is none."""
    if isinstance(node, fx.Node):
        return attribute(graph, node)
    assert otherwise is not None
    return otherwise
