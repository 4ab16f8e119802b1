"""What the user asks for, and what goes in."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where the network will run, as read from targets/*.toml."""

    name: str
    runtime: Literal["openvino", "onnxruntime"]
    description: str = ""
    threads: int = 1
    align: int = 8
    """Deployed group widths are multiples of this (rounded up)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What the deployed network must keep; None means no limit. Checked by `gate`."""

    max_latency_ms: float | None = None
    max_memory_bytes: int | None = None
    max_size_bytes: int | None = None
    max_accuracy_drop: float | None = None
    """Absolute fall of accuracy against the dense network, in [0, 1]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec:
    """What the network reads: one float32 tensor of shape (N, *shape)."""

    shape: tuple[int, int, int]
    """(channels, height, width)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocess:
    """From a decoded image to a network input; applied in this order."""

    color: Literal["rgb", "bgr", "gray"] = "rgb"
    resize: tuple[int, ...] | None = None
    """(shorter side,) or (height, width); None leaves the size."""
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear"
    crop: tuple[int, int] | None = None
    """Centre crop to (height, width)."""
    rotate: Literal[0, 90, 180, 270] = 0
    """Degrees, counter-clockwise, after the crop."""
    scale: float = 1.0 / 255.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    """input = (pixel * scale - mean) / std, per channel (one value serves all channels)."""


class Split(StrEnum):
    """The three disjoint parts of a data set."""

    CALIBRATION = "calibration"
    """What the walk looks at."""
    VALIDATION = "validation"
    """Held out of the calibration images; decides where to stop."""
    EVALUATION = "evaluation"
    """Looked at once, at the end, for the report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One image: where it lies, its label, and the digest of its pixels' source bytes."""

    source: str
    """A path, or `path::array::index` for arrays inside an .npz file."""
    label: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationSet:
    """Images with labels in three disjoint splits, and how to turn them into network inputs."""

    name: str
    classes: tuple[str, ...]
    preprocess: Preprocess
    samples: dict[Split, tuple[Sample, ...]]
    digest: str
    notes: tuple[str, ...] = ()
    """What the reader should know: duplicates left out, classes without images, and so on."""
