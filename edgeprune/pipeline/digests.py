"""What a stage depends on, as SHA-256: equal digests, equal results."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version

from torch import nn

from edgeprune.records import CalibrationSet, Split

WALK_LIBRARIES = ("torch", "torchvision", "numpy", "scipy")
LIBRARIES = ("edgeprune", *WALK_LIBRARIES, "onnx", "onnxscript", "onnxsim")
TRAJECTORIES = 6
"""One more whenever the same settings, images and libraries lead to other units or weights than before."""
PLAIN = (bool, int, float, str, tuple)


def digest(value: Mapping[str, object]) -> str:
    """Of settings."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def images_digest(data: CalibrationSet, *splits: Split) -> str:
    """Of all that decides the inputs and labels of some splits; where the files lie does not."""
    samples = {
        split.value: [(s.digest, s.label, *([s.answer_digest] if s.answer_digest else ())) for s in found]
        for split in splits
        for found in [data.samples[split]]
    }
    code = {} if data.kind == "classes" else {"kind": data.kind, "code": repr(data.code)}
    return digest({**samples, **code, "preprocess": repr(data.preprocess), "classes": data.classes})


def network_digest(module: nn.Module, weights: str) -> str:
    """Of a network's weights (their digest is given), layers and code: an edited forward is another network.

    The code is the source files of the layers' classes; files that these import are not looked at.
    """
    layers = list(module.modules())
    kinds = {kind for layer in layers for kind in type(layer).__mro__}
    code = {f"{kind.__module__}.{kind.__qualname__}": source(kind) for kind in kinds}
    settings = [
        sorted((name, repr(value)) for name, value in vars(layer).items() if isinstance(value, PLAIN))
        for layer in layers
    ]
    return digest({"weights": weights, "layers": repr(module), "settings": settings, "code": code})


def source(kind: Callable[..., object]) -> str:
    """The file that a class or function is written in, for what it calls there; empty where there is none."""
    try:
        return inspect.getsource(inspect.getmodule(kind) or kind)
    except (OSError, TypeError):
        return ""


def analysis_digest() -> str:
    """Of the code of an analysis: what it is made with, and what it does with that."""
    return digest({**versions(WALK_LIBRARIES), "trajectories": TRAJECTORIES})


def versions(libraries: Iterable[str]) -> dict[str, str]:
    """Installed version of each."""
    return {name: version(name) for name in libraries}
