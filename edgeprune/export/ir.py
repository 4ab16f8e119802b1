"""ONNX to OpenVINO's IR: always from a verified ONNX file, so that all files descend from one."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeprune.errors import ModelError
from edgeprune.export.metadata import read_description
from edgeprune.export.writing import reason, staged

log = logging.getLogger(__name__)


def for_runtime(onnx_path: Path, runtime: str) -> Path:
    """The file that a runtime loads, made beside an .onnx."""
    if runtime != "openvino":
        return onnx_path
    to_openvino(onnx_path, onnx_path.with_suffix(".xml"))
    return onnx_path.with_suffix(".xml")


def to_openvino(onnx_path: Path, xml_path: Path, *, fp16: bool = False) -> None:
    """Write OpenVINO IR (.xml, and .bin beside it) from an ONNX file, its weights in 32 or 16 bits.

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
    save_openvino(model, xml_path, description=read_description(onnx_path), fp16=fp16)


def save_openvino(
    model: Any,  # Any: openvino ships no types
    xml_path: Path,
    *,
    description: Mapping[str, object],
    fp16: bool = False,
) -> None:
    """Write OpenVINO's network as IR, weights as they are or in 16 bits; its description goes into rt_info.

    Raises:
        RunFolderError: The IR cannot be written.
    """
    import openvino

    for name, value in description.items():
        model.set_rt_info(json.dumps(value, ensure_ascii=False), ["edgeprune", name])
    with staged(xml_path) as place:
        openvino.save_model(model, place, compress_to_fp16=fp16)
    log.info("wrote %s", xml_path)
