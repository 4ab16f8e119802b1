"""Quantization by NNCF, for OpenVINO: IR in 8 bits, bias correction and control of the accuracy its own."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from edgeprune.errors import InputError, ModelError
from edgeprune.records import Floats

WITH_WEIGHTS = ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "MatMul")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Judge:
    """How much accuracy may go, on which images."""

    images: Floats
    """Shape (n, C, H, W)."""
    value: Callable[[Sequence[int], Floats], float]
    """The task's metric from the numbers of some of these images and the outputs for them."""
    max_drop: float
    """Against the float32 network that is quantized, in [0, 1]."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizedIr:
    """OpenVINO's network, and its layers with weights that stayed in float32."""

    model: Any  # Any: openvino.Model, which ships no types
    layers: int
    kept_float: tuple[str, ...]
    version: str


def quantize_ir(onnx_path: Path, images: Floats, judge: Judge | None = None) -> QuantizedIr:
    """Return a verified ONNX file as OpenVINO's network in 8 bits.

    Args:
        images: Calibration images, shape (n, C, H, W).
        judge: Put layers back to float32 until the drop is within; None: quantize all of them.

    Raises:
        InputError: NNCF is not installed.
        ModelError: NNCF cannot quantize the network.
    """
    import openvino

    with silent():
        nncf = import_nncf()
        model = openvino.Core().read_model(onnx_path)
        try:
            made = quantized(nncf, model, images, judge)
        # Its errors have no common parent.
        except Exception as err:
            raise ModelError(
                f"{onnx_path}: NNCF cannot quantize it ({' '.join(str(err).split())[:300]}); "
                "build without --int8."
            ) from err
    layers = list(weighted_layers(made))
    return QuantizedIr(
        model=made,
        layers=len(layers),
        kept_float=tuple(name for name, in_8_bits in layers if not in_8_bits),
        version=str(nncf.__version__),
    )


def import_nncf() -> ModuleType:
    """Import NNCF, or say how to get it."""
    try:
        import nncf
    except ImportError as err:
        raise InputError(
            f'--int8 for OpenVINO needs nncf ({err}); run: pip install "edgeprune[int8]"'
        ) from err
    module: ModuleType = nncf
    return module


def quantized(nncf: Any, model: Any, images: Floats, judge: Judge | None) -> Any:  # Any: as above
    calibration = nncf.Dataset([image[None] for image in images])
    # Symmetric weights, asymmetric activations: what is not a ReLU has two-sided values of unequal size.
    settings = {"preset": nncf.QuantizationPreset.MIXED, "subset_size": len(images)}
    if judge is None:
        return nncf.quantize(model, calibration, **settings)
    items = [(image[None], number) for number, image in enumerate(judge.images)]
    return nncf.quantize_with_accuracy_control(
        model,
        calibration,
        nncf.Dataset(items, lambda item: item[0]),
        partial(accuracy, judge),
        max_drop=judge.max_drop,
        drop_type=nncf.DropType.ABSOLUTE,
        **settings,
    )


def accuracy(judge: Judge, compiled: Any, items: Iterable[tuple[Floats, int]]) -> tuple[float, None]:
    """The metric of a compiled network, as NNCF asks for it; it then ranks layers by what scores change."""
    numbers, outputs = [], []
    for image, number in items:
        numbers.append(number)
        outputs.append(np.asarray(compiled(image)[0], dtype=np.float32))
    return judge.value(numbers, np.concatenate(outputs)), None


def weighted_layers(model: Any) -> Iterator[tuple[str, bool]]:
    """Names of the layers with stored weights, and whether these have 8 bits."""
    for operation in model.get_ordered_ops():
        if operation.get_type_name() not in WITH_WEIGHTS:
            continue
        node, passed = operation.input_value(1).get_node(), 0
        while node.get_type_name() != "Constant" and node.inputs():
            passed += node.get_type_name() == "FakeQuantize"
            node = node.input_value(0).get_node()
        if node.get_type_name() == "Constant":
            stored = node.get_element_type().get_type_name()
            yield operation.get_friendly_name(), bool(passed) or stored in ("i8", "u8")


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Without its log, its bars and (CI=true) its telemetry."""
    before, disabled = os.environ.get("CI"), logging.root.manager.disable
    os.environ["CI"] = "true"
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(StringIO()), contextlib.redirect_stderr(StringIO()):
            yield
    finally:
        logging.disable(disabled)
        os.environ.pop("CI") if before is None else os.environ.update(CI=before)
