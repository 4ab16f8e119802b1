"""Networks of two layers as .onnx files, written without torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

CLASSES = 4
IMAGE_SHAPE = (3, 8, 8)


def weights() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(CLASSES, IMAGE_SHAPE[0], 1, 1)).astype(np.float32)


def expected(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the network gives: a 1x1 convolution, averaged over the image."""
    scores: NDArray[np.float32] = images.mean(axis=(2, 3)) @ weights()[:, :, 0, 0].T
    return scores


def save(path: Path, *, batch: int | str = 1) -> Path:
    """Write the network; a batch size that is a word is dynamic."""
    nodes = [
        helper.make_node("Conv", ["image", "weights"], ["features"]),
        helper.make_node("GlobalAveragePool", ["features"], ["means"]),
        helper.make_node("Flatten", ["means"], ["scores"]),
    ]
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, *IMAGE_SHAPE])]
    return _write(path, nodes, inputs, [batch, CLASSES])


def save_two_inputs(path: Path) -> Path:
    """Write a network that reads two tensors."""
    names = ("left", "right")
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, *IMAGE_SHAPE]) for name in names]
    nodes = [
        helper.make_node("Add", list(names), ["sum"]),
        helper.make_node("Conv", ["sum", "weights"], ["scores"]),
    ]
    return _write(path, nodes, inputs, [1, CLASSES, *IMAGE_SHAPE[1:]])


def watch_openvino(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give the list to which every network's input shape is added when OpenVINO compiles it."""
    import openvino

    shapes: list[str] = []
    really_compile = openvino.Core.compile_model

    def compile_model(core: openvino.Core, model: openvino.Model, *rest: object) -> openvino.CompiledModel:
        shapes.append(str(model.input(0).partial_shape))
        return really_compile(core, model, *rest)

    monkeypatch.setattr(openvino.Core, "compile_model", compile_model)
    return shapes


def _write(
    path: Path, nodes: list[onnx.NodeProto], inputs: list[onnx.ValueInfoProto], output: list[int | str]
) -> Path:
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, output)
    graph = helper.make_graph(
        nodes, "tiny", inputs, [scores], [numpy_helper.from_array(weights(), "weights")]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path
