"""torch -> ONNX by torch's exporter, and a simpler graph of the same network."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import onnx
import torch
from onnx import ModelProto
from torch import fx, nn

from edgeprune.errors import ModelError
from edgeprune.export.metadata import description_of, write_
from edgeprune.export.writing import reason, save, silence
from edgeprune.records import InputSpec, OnnxOptions

log = logging.getLogger(__name__)

INPUT, OUTPUT = "image", "scores"
SIMPLIFY_CHECKS = {"check_n": 3, "check_rtol": 1e-3, "check_atol": 1e-4}
"""Random inputs on which the simplified network must agree. onnxsim's own default is to check nothing, and
its tolerances refuse deep networks for scores that happen to be near zero."""

DEFAULT = OnnxOptions()
BATCH, HEIGHT, WIDTH = 0, 2, 3
OTHER = 32
"""Pixels more, to see whether a network reads other sizes; what most networks divide by."""


def to_onnx(
    module: nn.Module, spec: InputSpec, path: Path, options: OnnxOptions = DEFAULT
) -> tuple[str, ...]:
    """Write the network with input `image` and output `scores`, all float32; return notes.

    Args:
        module: In evaluation mode and on the CPU; or the module of a `torch.export` program.
        options: Batch 1 and the size of `spec`, unless they say otherwise.

    Raises:
        ModelError: The exporter refuses the network; the message names the operation or the reason.
        RunFolderError: The file cannot be written.
    """
    # The graph of an exported program was traced in one mode for good; its `training` flag means nothing.
    assert isinstance(module, fx.GraphModule) or not module.training
    if options.free_size:
        check_other_size(module, spec)
    model = convert(module, spec, options)
    outputs = len(model.graph.output)
    if outputs != 1:
        raise ModelError(f"the network gives {outputs} outputs; change it to give one tensor of scores.")
    check_free(model, spec, options)
    drop_metadata_(model)
    write_(model, options.description)
    save(model, path, external=options.external)
    log.info("wrote %s (%d nodes)", path, len(model.graph.node))
    return opset_notes(model, options.opset)


def convert(module: nn.Module, spec: InputSpec, options: OnnxOptions = DEFAULT) -> ModelProto:
    """The network as torch's exporter gives it, batch-norms folded into convolutions."""
    free = [BATCH] * (options.batch is None) + [HEIGHT, WIDTH] * options.free_size
    # A size above 1: the exporter takes 1 for a constant.
    image = torch.zeros(options.batch or 2, *spec.shape)
    try:
        with silence():
            program = torch.onnx.export(
                module,
                (image,),
                dynamo=True,
                dynamic_shapes=(dict.fromkeys(free, torch.export.Dim.DYNAMIC),) if free else None,
                opset_version=options.opset,
                input_names=[INPUT],
                output_names=[OUTPUT],
                verbose=False,
            )
    # Tracing runs the user's own code, which can raise anything.
    except Exception as err:
        raise ModelError(
            f"the network cannot be exported to ONNX (input {shown(image, free)}): {reason(err)}; "
            + (
                "fix the sizes in --input-shape."
                if free
                else "change that part of the network, or the input size."
            )
        ) from err
    assert program is not None
    return program.model_proto


def check_other_size(module: nn.Module, spec: InputSpec) -> None:
    """The exporter accepts sizes that fit together for a layer of fixed size: no free ones."""
    channels, height, width = spec.shape
    try:
        with torch.inference_mode():
            module(torch.zeros(1, channels, height + OTHER, width + OTHER))
    # The user's own code can raise anything.
    except Exception as err:
        raise ModelError(
            f"the network reads {height}x{width} images and no {height + OTHER}x{width + OTHER} ones "
            f"({reason(err)}); fix height and width in --input-shape."
        ) from err


def check_free(model: ModelProto, spec: InputSpec, options: OnnxOptions) -> None:
    """The exporter fixes a size, without a word, where the network needs it."""
    wanted: list[int | None] = [options.batch, spec.shape[0]]
    wanted += [None, None] if options.free_size else list(spec.shape[1:])
    found = [dim.dim_value or None for dim in model.graph.input[0].type.tensor_type.shape.dim]
    if found != wanted:
        shape, made = ("x".join("?" if n is None else str(n) for n in sizes) for sizes in (wanted, found))
        raise ModelError(
            f"the network reads {made} and no {shape}: a layer needs that size; fix it in --input-shape."
        )


def shown(image: torch.Tensor, free: list[int]) -> str:
    """A shape with its free sizes as question marks."""
    return "x".join("?" if axis in free else str(size) for axis, size in enumerate(image.shape))


def drop_metadata_(model: ModelProto) -> None:
    """Remove what exporters write about themselves: source paths of this machine, stack traces, settings."""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    for item in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del item.metadata_props[:]
    for tensor in model.graph.initializer:
        del tensor.metadata_props[:]


def opset_notes(model: ModelProto, asked: int) -> tuple[str, ...]:
    """The exporter keeps its own opset, without a word, where it cannot write the one asked for."""
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    return () if opset == asked else (f"ONNX opset {opset} instead of {asked}",)


def simplify(path: Path) -> tuple[str, ...]:
    """Simplify an ONNX file in place; on any failure the file stays as it was and the note says why."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # it imports ONNX Runtime
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
    description = description_of(before)
    drop_metadata_(after)
    write_(after, description)
    save(after, path, external=path.with_name(f"{path.name}.data").is_file())
    return (f"simplified: {len(before.graph.node)} -> {len(after.graph.node)} nodes",)
