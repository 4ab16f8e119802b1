"""What a deployed file is: size, digest, input, parameters and multiply-accumulates."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from pathlib import Path

import onnx
from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto

from edgeprune.export.writing import parts, silence
from edgeprune.records import Artifact, InputSpec

Shape = tuple[int, ...]


def artifact(  # noqa: PLR0913  # one argument for each thing that only the caller knows
    path: Path,
    *,
    root: Path,
    runtime: str,
    onnx_path: Path,
    params: int,
    macs: int,
    notes: Sequence[str] = (),
) -> Artifact:
    """Describe a deployed file: size and digest (with its .bin or weights beside it), and input.

    Args:
        root: The run folder; the artifact's path is relative to it.
        onnx_path: The ONNX file it was made from, or the file itself: it names the input.
    """
    [image] = onnx.load(onnx_path, load_external_data=False).graph.input
    files = parts(path)
    return Artifact(
        path=path.relative_to(root).as_posix(),
        runtime=runtime,
        size_bytes=sum(part.stat().st_size for part in files),
        digest=hashlib.sha256(b"".join(part.read_bytes() for part in files)).hexdigest(),
        input_name=image.name,
        input_shape=shape_of(image),
        params=params,
        macs=macs,
        notes=tuple(notes),
    )


def params_and_macs(onnx_path: Path, spec: InputSpec | None = None) -> tuple[int, int]:
    """Parameters and multiply-accumulates of one inference, counted in an ONNX file.

    Parameters are the float weights in the file (batch-norms are folded); multiply-accumulates are those
    of Conv, ConvTranspose, Gemm and MatMul.

    Args:
        spec: What free sizes are for the count, the batch then being 1; without, all are fixed.
    """
    model = onnx.load(onnx_path)
    if spec is not None and 0 in shape_of(model.graph.input[0]):
        model = fixed(model, spec)
    model = onnx.shape_inference.infer_shapes(model)
    shapes = known_shapes(model.graph)
    floats = [w for w in model.graph.initializer if w.data_type == onnx.TensorProto.FLOAT]
    params = sum(math.prod(weight.dims) for weight in floats)
    return params, sum(node_macs(node, shapes) for node in model.graph.node)


def fixed(model: ModelProto, spec: InputSpec) -> ModelProto:
    """A network of free sizes at one size, batch 1."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # it imports ONNX Runtime
    import onnxsim

    with silence():
        made, _ = onnxsim.simplify(
            model, overwrite_input_shapes={model.graph.input[0].name: [1, *spec.shape]}, certify=False
        )
    found: ModelProto = made
    return found


def known_shapes(graph: GraphProto) -> dict[str, Shape]:
    values = [*graph.input, *graph.value_info, *graph.output]
    weights = {weight.name: tuple(weight.dims) for weight in graph.initializer}
    return {value.name: shape_of(value) for value in values} | weights


def shape_of(value: ValueInfoProto) -> Shape:
    """A dimension without a fixed size counts as 0."""
    return tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)


def node_macs(node: NodeProto, shapes: dict[str, Shape]) -> int:
    """Multiply-accumulates of one node; 0 for operations that are not sums of products."""
    match node.op_type:
        case "Conv":
            return math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])
        case "ConvTranspose":
            return math.prod(shapes[node.input[0]]) * math.prod(shapes[node.input[1]][1:])
        case "MatMul":
            return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
        case "Gemm":
            rows_first = any(entry.name == "transA" and entry.i for entry in node.attribute)
            return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if rows_first else 1]
        case _:
            return 0
