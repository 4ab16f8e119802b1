"""Folds BatchNorm into the convolution before it, so that a replay runs one op for two."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from edgeprune.copying import copied

aten = torch.ops.aten
CONVOLUTIONS = (
    *(aten.conv1d.default, aten.conv2d.default, aten.conv3d.default),
    *(aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding),
)
NORM = aten._native_batch_norm_legit_no_training.default


@dataclass(frozen=True, slots=True, kw_only=True)
class Norm:
    """The BatchNorm that was folded into a convolution, by the names of its tensors in the network."""

    weight: str | None
    bias: str | None
    mean: str
    variance: str
    eps: float
    conv_bias: str | None
    """The convolution's own bias, where it has one."""
    folded_bias: str
    """The bias of both together, in the folded graph."""


@dataclass(frozen=True, slots=True, eq=False)
class Folded:
    """A traced network without the BatchNorms that directly follow a convolution.

    Output rows of the convolution's weight are scaled, so that zeroing some of its input columns later masks
    the same channels as before. Parameters keep their names.
    """

    graph: fx.GraphModule
    norms: dict[str, Norm]
    """Weight of a convolution -> the BatchNorm folded into it."""


def folded(graph: fx.GraphModule) -> Folded:
    """A copy of a traced network, BatchNorms folded where they follow a convolution."""
    result = copied(graph)
    reads = Counter(str(node.target) for node in _nodes(result, "get_attr") for _ in node.users)
    norms = {}
    for norm in _nodes(result, "call_function"):
        if norm.target is NORM and _foldable(norm, reads):
            weight, folded_norm = _fold_(result, norm)
            norms[weight] = folded_norm
    result.recompile()
    return Folded(result, norms)


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
    tensors = [weight, *(node for node in norm.args[1:5] if node is not None)]
    alone = all(isinstance(n, fx.Node) and n.op == "get_attr" and reads[str(n.target)] == 1 for n in tensors)
    return alone and all(user.target is operator.getitem and user.args[1] == 0 for user in norm.users)


def _fold_(graph: fx.GraphModule, norm: fx.Node) -> tuple[str, Norm]:
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
    tensors = [_name(node) for node in (gamma, beta, mean, variance, old_bias)]
    return str(_name(weight_node)), Norm(
        weight=tensors[0],
        bias=tensors[1],
        mean=str(tensors[2]),
        variance=str(tensors[3]),
        eps=eps,
        conv_bias=tensors[4],
        folded_bias=name,
    )


def unfolded(
    norms: Mapping[str, Norm], weights: Mapping[str, Tensor], moments: Mapping[str, tuple[Tensor, Tensor]]
) -> dict[str, Tensor]:
    """New weights of the folded graph -> the tensors of the network itself that give the same outputs.

    The BatchNorm behind a changed convolution gets the statistics it would find (BatchNorm re-estimation),
    and the scale and bias with which it passes the output on unchanged: training can go on from there.

    Args:
        norms: From `folded`.
        weights: Changed weights and biases; with a folded convolution's weight comes its folded bias.
        moments: Weight -> mean and variance of its convolution's output without bias, where known.
    """
    biases = {norm.folded_bias for norm in norms.values()}
    result = {name: value for name, value in weights.items() if name not in norms and name not in biases}
    for name, norm in norms.items():
        if name in weights:
            result[name] = weights[name]
            result |= _statistics(norm, weights[norm.folded_bias], moments.get(name))
    return result


def _statistics(norm: Norm, bias: Tensor, moments: tuple[Tensor, Tensor] | None) -> dict[str, Tensor]:
    bias = bias.double()
    if moments is None or norm.weight is None or norm.bias is None:  # nothing scales or shifts after it
        mean, variance = -bias if norm.bias is None else 0 * bias, torch.ones_like(bias) - norm.eps
    else:
        mean, variance = moments
    found = {norm.mean: mean, norm.variance: variance}
    if norm.weight is not None:
        found[norm.weight] = torch.sqrt(variance + norm.eps)
    if norm.bias is not None:
        found[norm.bias] = bias + mean
    if norm.conv_bias is not None:
        found[norm.conv_bias] = torch.zeros_like(bias)
    return {name: value.float() for name, value in found.items()}


def _name(node: object) -> str | None:
    return str(node.target) if isinstance(node, fx.Node) else None


def _tensor(graph: fx.GraphModule, node: object, otherwise: Tensor | None = None) -> Tensor:
    """The tensor behind an argument, or the other one where there is none."""
    if isinstance(node, fx.Node):
        return attribute(graph, node)
    assert otherwise is not None
    return otherwise
