"""Opens an artifact with the target's runtime and runs it, image by image.

Precision, threads and streams are fixed here, so that the accuracy and the time that a report states
come from one configuration. `measure/worker.py` repeats them, because it runs alone on the target.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edgeprune.errors import InputError, ModelError
from edgeprune.records import Floats
from edgeprune.runtime import onnxruntime, openvino
from edgeprune.runtime.artifact import Opened, Runtime, Setting
from edgeprune.runtime.layout import layout

__all__ = ["RUNTIMES", "Predict", "layout", "load", "settings", "versions"]

Predict = Callable[[Floats], Floats]
"""Images (n, C, H, W) to outputs (n, K)."""

RUNTIMES: dict[str, Runtime] = {"onnxruntime": onnxruntime, "openvino": openvino}


def load(path: Path, *, runtime: str, threads: int) -> Predict:
    """Return a function from images (n, C, H, W) to the network's first output, (n, K).

    The images go one by one through the batch-1 artifact, as they will on the device.

    Raises:
        TargetUnreachable: The runtime is not installed.
        ModelError: The file does not open, or (from the returned function) refuses an image.
        InputError: Unknown runtime, or no such file.
    """
    module = RUNTIMES[_known(runtime)]
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a network that {runtime} can open.")
    opened = module.open_artifact(path, threads)

    def predict(images: Floats) -> Floats:
        assert len(images), "without an image the number of outputs is unknown"
        _check_shape(path, opened, images)
        kind = np.uint8 if opened.bytes_in else np.float32
        outputs = [opened.infer(np.ascontiguousarray(image[None], dtype=kind)) for image in images]
        return np.concatenate(outputs)

    return predict


def versions(runtime: str) -> dict[str, str]:
    """Return the versions of the runtime and of NumPy; raises as `load` does."""
    return {runtime: RUNTIMES[_known(runtime)].version(), "numpy": np.__version__}


def settings(runtime: str, threads: int) -> dict[str, Setting]:
    """Return what is set on a runtime, under the runtime's own names."""
    return RUNTIMES[_known(runtime)].settings(threads)


def _known(runtime: str) -> str:
    if runtime not in RUNTIMES:
        close = difflib.get_close_matches(runtime, RUNTIMES, n=1)
        hint = f"did you mean `{close[0]}`?" if close else f"choose one of {', '.join(RUNTIMES)}."
        raise InputError(f"unknown runtime `{runtime}`; {hint}")
    return runtime


def _check_shape(path: Path, opened: Opened, images: Floats) -> None:
    wanted, given = opened.image_shape, images.shape[1:]
    if len(wanted) != len(given) or any(w not in (None, g) for w, g in zip(wanted, given, strict=True)):
        shown = "x".join("?" if size is None else str(size) for size in wanted)
        raise ModelError(
            f"{path}: the network reads {shown} images, but got {'x'.join(map(str, given))}; "
            "change resize or crop in the data description, or export again at that size."
        )
