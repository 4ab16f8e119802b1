"""Bias correction: what rounding a layer's weights shifts on average is taken back by its bias.

Nagel et al. 2019 (Data-Free Quantization, eq. 17): rounding W to W + e moves the mean of each output channel
by e E[x]. They estimate E[x] from BatchNorm statistics; here it is measured on the calibration images.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, numpy_helper

from edgeprune.quantize.layers import BIAS, INPUT, Doubles, Layer, dequantized, initializers, quantized_layers
from edgeprune.records import Floats

MOST_IMAGES = 64
"""A mean over positions and images needs no more."""


def correct_biases(source: ModelProto, model: ModelProto, images: Floats) -> None:
    """Correct the biases of a QDQ network in place (int32, as ONNX Runtime stores them).

    Args:
        source: The float32 network that it was made from.
        images: Calibration images, shape (n, C, H, W).
    """
    weights, stored = initializers(source), initializers(model)
    layers = [layer for layer in quantized_layers(model) if correctable(layer, weights)]
    readers = {name: node for node in source.graph.node for name in node.input[1:2]}
    means = input_means(source, [readers[layer.name] for layer in layers], images[:MOST_IMAGES])
    for layer in layers:
        assert layer.bias is not None
        exact = numpy_helper.to_array(weights[layer.name]).astype(np.float64)
        error = dequantized(layer.weight, stored) - exact
        shift = mean_shift(layer.node, error, means[readers[layer.name].input[INPUT]])
        bias, scale = (stored[name] for name in layer.bias.input[:2])
        steps = np.rint(shift / numpy_helper.to_array(scale).astype(np.float64))
        corrected = np.asarray(numpy_helper.to_array(bias) - steps, dtype=np.int32)
        bias.CopyFrom(numpy_helper.from_array(corrected, bias.name))


def correctable(layer: Layer, weights: dict[str, onnx.TensorProto]) -> bool:
    """A convolution or a matrix product whose weight and bias are stored tensors."""
    if layer.bias is None or layer.name not in weights or len(layer.node.input) <= BIAS:
        return False
    return layer.node.op_type == "Conv" or (layer.node.op_type == "Gemm" and not flag(layer.node, "transA"))


def flag(node: NodeProto, name: str) -> bool:
    return any(entry.name == name and entry.i for entry in node.attribute)


def mean_shift(node: NodeProto, error: Doubles, mean: Doubles) -> Doubles:
    """How far an error of the weights moves the mean of each output channel.

    Borders, where padding is read in the place of the input, count as the rest.
    """
    if node.op_type == "Gemm":
        return np.asarray((error if flag(node, "transB") else error.T) @ mean)
    groups = len(mean) // error.shape[1]
    per_tap = error.sum(axis=tuple(range(2, error.ndim))).reshape(groups, -1, error.shape[1])
    return np.asarray(np.einsum("goi,gi->go", per_tap, mean.reshape(groups, -1)).reshape(-1))


def input_means(source: ModelProto, nodes: list[NodeProto], images: Floats) -> dict[str, Doubles]:
    """The mean of what nodes read, by tensor and channel, over images and positions."""
    import onnxruntime

    model = ModelProto()
    model.CopyFrom(source)
    names = list(dict.fromkeys(node.input[INPUT] for node in nodes))
    [image] = model.graph.input
    inner = [name for name in names if name != image.name]
    given = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner if name not in given)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    sums = dict.fromkeys(names, np.zeros(()))
    for one in images:
        values = dict(zip(inner, session.run(inner, {image.name: one[None]}), strict=True))
        values[image.name] = one[None]
        for name in names:
            value = np.asarray(values[name], dtype=np.float64)
            sums[name] = sums[name] + value.mean(axis=(0, *range(2, value.ndim)))
    return {name: total / len(images) for name, total in sums.items()}
