"""Other forms of a verified ONNX file: 16-bit weights, ORT format, this CPU's graph, processing inside."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edgeprune.errors import ModelError
from edgeprune.export import processing
from edgeprune.export.detections import end_with_boxes_
from edgeprune.export.writing import save, staged
from edgeprune.records import Decoding, Preprocess
from edgeprune.scratch import scratch

SMALLEST = 1024
"""Weights of fewer elements stay in 32 bits: they take no room."""
LARGEST_FP16 = 65504.0
End = Literal["scores", "probabilities", "class"]
"""What a network with the processing inside gives."""


def to_fp16(path: Path) -> tuple[str, ...]:
    """Store the float32 weights of an ONNX file in 16 bits, in place; runtimes compute in 32 bits as before.

    Each is widened by a Cast, which runtimes do once, while loading: half the file, as quick as before.
    """
    model = onnx.load(path)
    graph, casts = model.graph, []
    before = path.stat().st_size
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.data_type != TensorProto.FLOAT or values.size < SMALLEST:
            continue
        if np.abs(values).max() > LARGEST_FP16:
            return (f"weights stay in 32 bits: {tensor.name} has values beyond 16 bits",)
        wide = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{wide}_fp16"))
        casts.append(helper.make_node("Cast", [f"{wide}_fp16"], [wide], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    save(model, path)
    return (f"weights stored in 16 bits: {before / 1e6:.2f} -> {path.stat().st_size / 1e6:.2f} MB",)


def to_ort(source: Path, path: Path, *, for_this_cpu: bool = False) -> None:
    """Write ONNX Runtime's own form of an ONNX file, optimised: .ort, or .onnx by the suffix of `path`.

    Args:
        for_this_cpu: Also lay the weights out as this kind of CPU wants them: half the memory or less while
            loading, and no work then; only for CPUs of its kind.

    Raises:
        ModelError: ONNX Runtime refuses the file.
    """
    import onnxruntime

    levels = onnxruntime.GraphOptimizationLevel
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if for_this_cpu else levels.ORT_ENABLE_EXTENDED
    with scratch() as folder:
        made = Path(folder, path.name)
        options.optimized_model_filepath = str(made)
        if path.suffix == ".ort":
            options.add_session_config_entry("session.save_model_format", "ORT")
        try:
            onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
        except Exception as err:  # its errors have no common parent but Exception
            raise ModelError(
                f"{source}: onnxruntime cannot write it as {path.name}: {' '.join(str(err).split())[:300]}; "
                "leave that form out."
            ) from err
        with staged(path) as place:
            place.write_bytes(made.read_bytes())


def with_processing(
    source: Path, path: Path, preprocess: Preprocess, *, frame: tuple[int, int], end: End | Decoding
) -> None:
    """Write a network that reads frames as a camera gives them, uint8 (1, height, width, channels).

    Args:
        source: The verified network.
        frame: Height and width of the frames.
        end: What it gives: the scores as they are, their softmax, or the number of the best class; of a
            detector its detections, as `with_boxes` says.

    Raises:
        ModelError: The frames do not come out in the size that the network reads.
    """
    network = onnx.load(source)
    before = processing.before(network, preprocess, frame)
    made = joined(before, network)
    if isinstance(end, Decoding):
        end_with_boxes_(made, end)
    else:
        processing.end_with_(made, end)
    onnx.checker.check_model(made)
    save(made, path)


def joined(before: ModelProto, network: ModelProto) -> ModelProto:
    """Two networks, the output of the first named as the input of the second."""
    made = ModelProto()
    made.CopyFrom(network)
    nodes = [*before.graph.node, *network.graph.node]
    del made.graph.node[:], made.graph.input[:]
    made.graph.node.extend(nodes)
    made.graph.input.extend(before.graph.input)
    made.graph.initializer.extend(before.graph.initializer)
    return made
