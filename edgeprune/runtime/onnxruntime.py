"""ONNX Runtime on the CPU: .onnx files."""

from __future__ import annotations

import os
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


def settings(threads: int) -> dict[str, Setting]:
    """Return the attributes of a session's options: one operator at a time, and only errors are logged."""
    return {
        "execution_mode": "ORT_SEQUENTIAL",
        "inter_op_num_threads": 1,
        "intra_op_num_threads": threads,
        "log_severity_level": 3,
    }


def version() -> str:
    """Return ONNX Runtime's version."""
    return str(import_onnxruntime().__version__)


def make_options(ort: ModuleType, threads: int) -> Any:  # Any: ONNX Runtime's SessionOptions
    """Return a session's options, as `settings` says."""
    options = ort.SessionOptions()
    for name, value in settings(threads).items():
        setattr(options, name, getattr(ort.ExecutionMode, value) if isinstance(value, str) else value)
    return options


def open_artifact(path: Path, threads: int) -> Opened:
    """Start a session on an artifact."""
    ort = import_onnxruntime()
    try:
        session = ort.InferenceSession(
            str(path), make_options(ort, threads), providers=["CPUExecutionProvider"]
        )
    except Exception as err:  # its errors have no common parent but Exception
        raise does_not_open(path, "onnxruntime", err) from err
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise several_inputs(path, len(inputs))

    def infer(image: Floats) -> Floats:
        try:
            results = session.run(None, {inputs[0].name: image})
        except Exception as err:  # as above
            raise does_not_run(path, "onnxruntime", err) from err
        return np.asarray(results[0], dtype=np.float32)

    sizes = tuple(size if isinstance(size, int) else None for size in inputs[0].shape)
    return Opened(image_shape=sizes[1:], infer=infer, bytes_in=inputs[0].type == "tensor(uint8)")


def import_onnxruntime() -> ModuleType:
    """Import the runtime, or say how to get it. Its telemetry stays off: it would report to its makers."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime  # here: `edgeprune --help` must not pay for it
    except ImportError as err:
        raise runtime_missing("onnxruntime", err) from err
    module: ModuleType = onnxruntime
    return module
