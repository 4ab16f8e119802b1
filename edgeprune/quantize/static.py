"""Static quantization by ONNX Runtime: each weight and activation goes through QuantizeLinear and back."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import ModelProto

from edgeprune.errors import ModelError
from edgeprune.quantize.bias import correct_biases
from edgeprune.quantize.layers import quantized_layers
from edgeprune.records import Floats
from edgeprune.scratch import of_libraries, scratch

log = logging.getLogger(__name__)


def quantize_onnx(source: Path, images: Floats, *, reduce_range: bool) -> ModelProto:
    """Return a float32 network with 8 bits, in QDQ form, biases corrected.

    Weights are signed with a range for each output channel, activations unsigned with one range each, the
    pair that x86 multiplies quickest; scripts/bench_int8.py measures it.

    Args:
        source: An .onnx file with one input.
        images: Calibration images, shape (n, C, H, W): the ranges of activations come from them.
        reduce_range: Weights in 7 bits, for x86 without VNNI instructions: they add pairs of products in
            16 bits, which 8-bit weights overflow.

    Raises:
        ModelError: ONNX Runtime cannot quantize it.
    """
    from onnxruntime import quantization  # here: it takes a second

    [image] = onnx.load(source, load_external_data=False).graph.input

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
        def __init__(self) -> None:
            self.rest = iter(images)

        def get_next(self) -> dict[str, Floats] | None:
            found = next(self.rest, None)
            return None if found is None else {image.name: found[None]}

    with scratch() as folder, of_libraries(folder), quiet():
        place = Path(folder, "int8.onnx")
        try:
            quantization.quantize_static(
                source,
                place,
                Reader(),
                per_channel=True,
                reduce_range=reduce_range,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                # A layer that goes back to float32 needs its ReLU; runtimes fuse the others away.
                extra_options={"QDQKeepRemovableActivations": True},
            )
        # Its errors have no common parent.
        except Exception as err:
            raise ModelError(
                f"{source}: ONNX Runtime cannot quantize it ({' '.join(str(err).split())[:300]}); "
                "build without --int8."
            ) from err
        model = onnx.load(place)
    if not quantized_layers(model):
        raise ModelError(f"{source}: no layer can be quantized; build without --int8.")
    correct_biases(onnx.load(source), model, images)
    return model


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without its advice, which goes to the root logger: our files are prepared as it wants them."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
