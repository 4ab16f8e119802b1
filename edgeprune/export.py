"""A network becomes files that a CPU runtime loads (ONNX, OpenVINO IR), and how far they agree with it.

Every file is written in a folder `.tmp-*` beside its place and then moved, so that an interrupted export
leaves the old file or the new one, never half of one.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from io import StringIO
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto
from torch import fx, nn

from edgeprune.errors import ModelError, ParityError, RunFolderError
from edgeprune.records import Artifact, Floats, InputSpec, Parity

log = logging.getLogger(__name__)

OPSET = 20
INPUT, OUTPUT = "image", "scores"
MAX_ONNX_BYTES = 2**31 - 1
"""What one protobuf file can hold."""
SIMPLIFY_CHECKS = {"check_n": 3, "check_rtol": 1e-3, "check_atol": 1e-4}
"""Random inputs on which the simplified network must agree. onnxsim's own default is to check nothing, and
its tolerances refuse deep networks for scores that happen to be near zero."""

Shape = tuple[int, ...]

# --- torch to ONNX ------------------------------------------------------------------------------------


def to_onnx(module: nn.Module, spec: InputSpec, path: Path, *, free_batch: bool = False) -> tuple[str, ...]:
    """Write the network with batch size 1, input `image` and output `scores`, all float32; return notes.

    Args:
        module: In evaluation mode and on the CPU; or the module of a `torch.export` program.
        free_batch: Leave the batch size free, where the network allows it; runtimes are quicker without.

    Raises:
        ModelError: The exporter refuses the network; the message names the operation or the reason.
        RunFolderError: The file cannot be written.
    """
    # The graph of an exported program was traced in one mode for good; its `training` flag means nothing.
    assert isinstance(module, fx.GraphModule) or not module.training
    check_size(module)
    model = convert(module, spec, free_batch=free_batch)
    outputs = len(model.graph.output)
    if outputs != 1:
        raise ModelError(f"the network gives {outputs} outputs; change it to give one tensor of scores.")
    drop_metadata_(model)
    with staged(path) as place:
        place.write_bytes(model.SerializeToString())
    log.info("wrote %s (%d nodes)", path, len(model.graph.node))
    return opset_notes(model)


def check_size(module: nn.Module) -> None:
    size = sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
    if size > MAX_ONNX_BYTES:
        raise ModelError(
            f"the network holds {size / 1e9:.1f} GB of weights, but one ONNX file holds at most 2.1 GB; "
            "use a smaller network."
        )


def convert(module: nn.Module, spec: InputSpec, *, free_batch: bool = False) -> ModelProto:
    """The network as torch's exporter gives it, batch-norms folded into convolutions."""
    # A size above 1: the exporter takes 1 for a constant.
    image = torch.zeros(2 if free_batch else 1, *spec.shape)
    try:
        with silence():
            program = torch.onnx.export(
                module,
                (image,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim.DYNAMIC},) if free_batch else None,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                verbose=False,
            )
    # Tracing runs the user's own code, which can raise anything.
    except Exception as err:
        raise ModelError(
            f"the network cannot be exported to ONNX (input {tuple(image.shape)}): {reason(err)}; "
            "change that part of the network, or the input size."
        ) from err
    assert program is not None
    return program.model_proto


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keep the exporters' progress, warnings and dumps of graphs from the user; errors still raise."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(StringIO()),
            contextlib.redirect_stderr(StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def reason(err: BaseException) -> str:
    """The first telling line of the error that started it all."""
    while err.__cause__ is not None:
        err = err.__cause__
    lines = [line.strip() for line in str(err).splitlines()]
    # OpenVINO begins its messages with places in its own source.
    telling = [line for line in lines if line and not line.startswith(("Exception from ", "Check '"))]
    return telling[0].rstrip(".;") if telling else type(err).__name__


def drop_metadata_(model: ModelProto) -> None:
    """Remove what exporters write about themselves: source paths of this machine, stack traces, settings."""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    for item in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del item.metadata_props[:]
    for tensor in model.graph.initializer:
        del tensor.metadata_props[:]


def opset_notes(model: ModelProto) -> tuple[str, ...]:
    """The exporter keeps its own opset, without a word, where it cannot write the one asked for."""
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    return () if opset == OPSET else (f"ONNX opset {opset} instead of {OPSET}",)


# --- ONNX to smaller ONNX -----------------------------------------------------------------------------


def simplify(path: Path) -> tuple[str, ...]:
    """Simplify an ONNX file in place; on any failure the file stays as it was and the note says why."""
    import onnxsim

    try:
        before = onnx.load(path)
        with silence():
            after, same = onnxsim.simplify(before, certify=False, **SIMPLIFY_CHECKS)
    # Never fatal: the file that went in is as good, only larger.
    except Exception as err:
        return (f"not simplified: {reason(err)}",)
    if not same:
        return ("not simplified: the simplified network gives other scores",)
    drop_metadata_(after)
    with staged(path) as place:
        place.write_bytes(after.SerializeToString())
    return (f"simplified: {len(before.graph.node)} -> {len(after.graph.node)} nodes",)


# --- ONNX to OpenVINO ---------------------------------------------------------------------------------


def to_openvino(onnx_path: Path, xml_path: Path) -> None:
    """Write OpenVINO IR (.xml, and .bin beside it) with float32 weights, from a static ONNX file.

    `Core.read_model` is used instead of `convert_model`, which would report each conversion over the network.

    Raises:
        ModelError: OpenVINO cannot read the file.
        RunFolderError: The IR cannot be written.
    """
    import openvino

    try:
        model = openvino.Core().read_model(onnx_path)
    except RuntimeError as err:
        raise ModelError(
            f"{onnx_path}: OpenVINO cannot read it: {reason(err)}; try a target with onnxruntime."
        ) from err
    with staged(xml_path) as place:
        openvino.save_model(model, place, compress_to_fp16=False)
    log.info("wrote %s", xml_path)


# --- what was made ------------------------------------------------------------------------------------


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
    """Describe a deployed file: its size and digest (an .xml counts with its .bin) and its input.

    Args:
        root: The run folder; the artifact's path is relative to it.
        onnx_path: The ONNX file it was made from, or the file itself: it names the input.
    """
    [image] = onnx.load(onnx_path, load_external_data=False).graph.input
    parts = [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]
    return Artifact(
        path=path.relative_to(root).as_posix(),
        runtime=runtime,
        size_bytes=sum(part.stat().st_size for part in parts),
        digest=hashlib.sha256(b"".join(part.read_bytes() for part in parts)).hexdigest(),
        input_name=image.name,
        input_shape=shape_of(image),
        params=params,
        macs=macs,
        notes=tuple(notes),
    )


def parity(stage: str, reference: Floats, other: Floats, *, limit: float = 1e-3) -> Parity:
    """How far two stages disagree: max |reference - other| / max |reference|.

    Args:
        stage: Who is compared, e.g. `pruned: torch -> onnx`; the reference is left of the arrow.
        reference: Scores of the same images, shape (N, ...), like `other`.

    Raises:
        ParityError: Above the limit, of different shapes, or not finite.
    """
    if reference.shape != other.shape:
        raise ParityError(
            f"{stage}: scores of shape {reference.shape} became {other.shape}; report this as a bug."
        )
    check_finite(stage, "before", reference)
    check_finite(stage, "after", other)
    largest = max(float(np.abs(reference).max()), float(np.finfo(np.float32).tiny))
    error = float(np.abs(reference - other).max()) / largest
    if error > limit:
        raise ParityError(
            f"{stage}: scores differ by {error:.2g} of the largest, over the limit of {limit:.2g}; "
            "try the other runtime, and report this as a bug."
        )
    return Parity(stage=stage, error=error, limit=limit, images=len(reference))


def check_finite(stage: str, side: str, scores: Floats) -> None:
    bad = int(np.count_nonzero(~np.isfinite(scores)))
    if bad:
        raise ParityError(
            f"{stage}: {bad} of {scores.size} scores {side} the arrow are NaN or infinite; "
            "check the weights and the preprocessing (mean, std, scale)."
        )


def params_and_macs(onnx_path: Path) -> tuple[int, int]:
    """Parameters and multiply-accumulates of one inference, counted in an ONNX file of static shapes.

    Parameters are the float weights in the file (batch-norms are folded); multiply-accumulates are those
    of Conv, ConvTranspose, Gemm and MatMul.
    """
    model = onnx.shape_inference.infer_shapes(onnx.load(onnx_path))
    shapes = known_shapes(model.graph)
    floats = [w for w in model.graph.initializer if w.data_type == onnx.TensorProto.FLOAT]
    params = sum(math.prod(weight.dims) for weight in floats)
    return params, sum(node_macs(node, shapes) for node in model.graph.node)


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


# --- files --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Lend a path to write to; when all went well, it and what was written beside it are moved into place."""
    try:
        with tempfile.TemporaryDirectory(prefix=".tmp-", dir=path.parent) as folder:
            yield Path(folder, path.name)
            # The file itself comes last: who finds it finds what belongs to it.
            for made in sorted(Path(folder).iterdir(), key=lambda made: made.name == path.name):
                made.replace(path.with_name(made.name))
    # OpenVINO writes in C++ and raises RuntimeError.
    except (OSError, RuntimeError) as err:
        raise RunFolderError(
            f"{path}: cannot be written: {reason(err)}; free some space or choose another folder."
        ) from err
