"""OpenVINO on the CPU: .xml/.bin pairs, .onnx files, and networks compiled before (.blob)."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from edgeprune.records import Floats
from edgeprune.runtime.artifact import (
    Opened,
    Setting,
    does_not_open,
    does_not_run,
    runtime_missing,
    several_inputs,
)

COMPILED = ".blob"


def settings(threads: int) -> dict[str, Setting]:
    """Return the properties of a compiled network: one stream, and float32 also where f16 is the default."""
    return {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }


def version() -> str:
    """Return OpenVINO's version, with its build number."""
    return str(_openvino().__version__)


def write_compiled(source: Path, path: Path, threads: int) -> None:
    """Write an artifact as OpenVINO compiles it (.blob), which then opens without compiling.

    It is for this kind of CPU and this version of OpenVINO alone.

    Raises:
        ModelError: OpenVINO refuses the artifact.
    """
    try:
        path.write_bytes(_compiled(source, threads).export_model().getvalue())
    except RuntimeError as err:
        raise does_not_open(source, "openvino", err) from err


def _compiled(path: Path, threads: int) -> Any:  # Any: OpenVINO's compiled model
    """The network with the settings of a measurement; a dynamic batch size becomes 1."""
    core = _openvino().Core()
    if path.suffix == COMPILED:
        return core.import_model(path.read_bytes(), "CPU", settings(threads))
    model = core.read_model(path)
    if len(model.inputs) != 1:
        raise several_inputs(path, len(model.inputs))
    shape = model.input(0).partial_shape
    if shape[0].is_dynamic:
        shape[0] = 1
        model.reshape(shape)
    return core.compile_model(model, "CPU", settings(threads))


def open_artifact(path: Path, threads: int) -> Opened:
    """Read and compile an artifact; a dynamic batch size becomes 1."""
    try:
        compiled = _compiled(path, threads)
        request = compiled.create_infer_request()
    except RuntimeError as err:
        raise does_not_open(path, "openvino", err) from err

    def infer(image: Floats) -> Floats:
        try:
            results = request.infer([image])
        except RuntimeError as err:
            raise does_not_run(path, "openvino", err) from err
        return np.asarray(results[0], dtype=np.float32)

    reads = compiled.input(0)
    sizes = tuple(None if size.is_dynamic else size.get_length() for size in reads.partial_shape)
    bytes_in = reads.element_type.get_type_name() == "u8"
    return Opened(image_shape=sizes[1:], infer=infer, bytes_in=bytes_in)


def _openvino() -> ModuleType:
    try:
        import openvino  # here: `edgeprune --help` must not pay for it
    except ImportError as err:
        raise runtime_missing("openvino", err) from err
    module: ModuleType = openvino
    return module
