"""The layers of a QDQ file: which are quantized, their weights, and how one becomes float32 again."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

DEQUANTIZE, QUANTIZE = "DequantizeLinear", "QuantizeLinear"
WITH_WEIGHTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
INPUT, WEIGHT, BIAS = 0, 1, 2
SUFFIX = "_quantized"
"""What ONNX Runtime adds to the name of a weight; what it dequantizes to may keep the name itself."""
FLOAT = "_float32"

Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A quantized node with weights; `name` is its weight's in the float32 network."""

    name: str
    node: NodeProto
    weight: NodeProto
    """The DequantizeLinear that gives its weight."""
    bias: NodeProto | None


def quantized_layers(model: ModelProto) -> list[Layer]:
    """The layers whose weights are stored in 8 bits, in the network's order."""
    makers = {output: node for node in model.graph.node for output in node.output}
    stored = {tensor.name for tensor in model.graph.initializer}
    found = []
    for node in model.graph.node:
        if node.op_type not in WITH_WEIGHTS:
            continue
        weight = makers.get(node.input[WEIGHT])
        if weight is None or weight.op_type != DEQUANTIZE or weight.input[0] not in stored:
            continue
        bias = makers.get(node.input[BIAS]) if len(node.input) > BIAS else None
        found.append(Layer(weight.input[0].removesuffix(SUFFIX), node, weight, bias))
    return found


def initializers(model: ModelProto) -> dict[str, TensorProto]:
    return {tensor.name: tensor for tensor in model.graph.initializer}


def dequantized(node: NodeProto, tensors: dict[str, TensorProto]) -> Doubles:
    """What a DequantizeLinear of a stored tensor gives."""
    value, scale = (numpy_helper.to_array(tensors[name]).astype(np.float64) for name in node.input[:2])
    zero = numpy_helper.to_array(tensors[node.input[2]]).astype(np.float64) if len(node.input) > 2 else 0.0  # noqa: PLR2004 - the zero point is the third
    axis = next((entry.i for entry in node.attribute if entry.name == "axis"), 1)
    along = [1] * value.ndim
    if scale.size > 1:
        along[axis] = scale.size
        scale = scale.reshape(along)
        zero = np.asarray(zero).reshape(along) if np.size(zero) > 1 else zero
    return np.asarray((value - zero) * scale)


def to_float(model: ModelProto, source: ModelProto, names: Collection[str]) -> ModelProto:
    """A copy of a QDQ network with some layers computing in float32 again, by the weights of `source`.

    What they read is no longer rounded for them; what they give still is, where the next layer wants it so.
    """
    made = ModelProto()
    made.CopyFrom(model)
    makers = {output: node for node in made.graph.node for output in node.output}
    weights = initializers(source)
    added: dict[str, TensorProto] = {}
    for layer in quantized_layers(made):
        if layer.name not in names:
            continue
        reads = makers.get(layer.node.input[INPUT])
        if reads is not None and reads.op_type == DEQUANTIZE and reads.input[0] in makers:
            layer.node.input[INPUT] = makers[reads.input[0]].input[0]
        stored = {WEIGHT: layer.weight, **({BIAS: layer.bias} if layer.bias else {})}
        for place, dequantize in stored.items():
            name = dequantize.input[0].removesuffix(SUFFIX)
            layer.node.input[place] = name + FLOAT
            added[name] = weights[name]
    for name, tensor in added.items():
        made.graph.initializer.add().CopyFrom(tensor)
        made.graph.initializer[-1].name = name + FLOAT
    drop_unread_(made)
    return made


def drop_unread_(model: ModelProto) -> None:
    """Remove nodes and weights that nothing reads."""
    graph = model.graph
    wanted = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    nodes, tensors = list(reversed(kept)), [t for t in graph.initializer if t.name in wanted]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(tensors)
