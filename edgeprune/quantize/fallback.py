"""Which layers of a quantized network go back to float32: as few as the accuracy asks for."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto

from edgeprune.quantize.layers import quantized_layers, to_float
from edgeprune.records import Floats

log = logging.getLogger(__name__)

RANKING_IMAGES = 32
ROUNDING = 1e-9
"""0.98 - 0.97 is a hair more than 0.01; a drop of exactly the limit fits."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Demand:
    """What a network must keep."""

    drop: Callable[[ModelProto], float]
    """Accuracy that a network loses, on validation images."""
    limit: float | None
    """The most it may lose; None: any."""
    ranking: Floats
    """Images by whose scores layers are ranked, shape (n, C, H, W)."""
    on_progress: Callable[[int, int], None] = lambda done, total: None
    """Called with the layers ranked so far and all."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Restored:
    """A network within its limit, or as near to it as it comes."""

    model: ModelProto
    layers: tuple[str, ...]
    """Those back in float32, the most sensitive first."""
    drop: float
    first_drop: float
    """With all layers quantized."""


def restore(model: ModelProto, source: ModelProto, demand: Demand) -> Restored:
    """Put the most sensitive layers back to float32 until the drop is within the limit.

    Twice as many each time, then halfway back: about 2 log2(layers) networks are judged. The last one tried
    has every layer in float32; where even that is beyond the limit, the quantized network itself comes back.

    Args:
        model: In QDQ form, all layers quantized.
        source: The float32 network that it was made from.
    """
    first = demand.drop(model)
    limit = math.inf if demand.limit is None else demand.limit + ROUNDING
    if first <= limit:
        return Restored(model=model, layers=(), drop=first, first_drop=first)
    order = ranked(model, source, demand)
    tried: dict[int, tuple[ModelProto, float]] = {0: (model, first)}

    def fits(count: int) -> bool:
        if count not in tried:
            made = to_float(model, source, set(order[:count]))
            tried[count] = made, demand.drop(made)
            log.info("%d layers in float32: drop %.4f", count, tried[count][1])
        return tried[count][1] <= limit

    most = 1
    while most < len(order) and not fits(most):
        most = min(2 * most, len(order))
    if not fits(most):
        return Restored(model=model, layers=(), drop=first, first_drop=first)
    least = most // 2
    while most - least > 1:
        middle = (most + least) // 2
        least, most = (least, middle) if fits(middle) else (middle, most)
    found, lost = tried[most]
    return Restored(model=found, layers=tuple(order[:most]), drop=lost, first_drop=first)


def ranked(model: ModelProto, source: ModelProto, demand: Demand) -> list[str]:
    """The quantized layers, those first whose return to float32 brings scores nearest to the exact ones."""
    images = demand.ranking[:RANKING_IMAGES]
    names = [layer.name for layer in quantized_layers(model)]
    exact = scores(source, images)
    errors = {}
    for done, name in enumerate(names, start=1):
        errors[name] = float(np.square(scores(to_float(model, source, {name}), images) - exact).mean())
        demand.on_progress(done, len(names))
    return sorted(names, key=lambda name: errors[name])


def scores(model: ModelProto, images: Floats) -> Floats:
    """Outputs of a network on ONNX Runtime, shape (n, ...)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    [image] = session.get_inputs()
    return np.concatenate([session.run(None, {image.name: one[None]})[0] for one in images])
