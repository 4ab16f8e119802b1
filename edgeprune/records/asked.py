"""What the user asks for, and what goes in."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]
Bools = NDArray[np.bool_]
Labels = NDArray[np.generic]
"""What images are judged against, their number first: classes (N,), masks (N, H, W), boxes (N, M, 6) ..."""
IGNORED = -1
"""In a mask: a pixel that counts for nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where the network will run, as read from targets/*.toml."""

    name: str
    runtime: Literal["openvino", "onnxruntime"]
    description: str = ""
    threads: int = 1
    align: int = 8
    """Deployed group widths are multiples of this (rounded up); 0: told by the CPU, see `Inputs`."""
    precision: Literal["f32"] = "f32"
    arch: str = ""
    """As the device's kernel names it, `aarch64` for example; empty: any."""
    memory_bytes: int | None = None
    """What the network and its runtime may take on the device; a budget without one of its own uses it."""
    host: str = ""
    """user@device[:port], reached over SSH; empty: this machine."""
    python: str = "python3"
    """The Python on the device."""
    folder: str = ""
    """Where files go for a moment on the device; empty: its folder for temporary files."""
    ssh_config: str = ""
    """A file for `ssh -F` instead of the user's own."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Decoding:
    """How an SSD makes detections of the one tensor that it gives: offsets of boxes to anchors, scores."""

    anchors: Doubles
    """Corners x0, y0, x1, y1 in pixels of the input, shape (anchors, 4)."""
    weights: tuple[float, ...]
    """Offsets are divided by these: of x, y, width, height."""
    most_growth: float
    """Natural logarithm of how many times as large as its anchor a box may be."""
    size: tuple[int, int]
    """Height and width of the input."""
    score_from: float
    overlap: float
    """IoU from which the less sure of two boxes of a class goes."""
    candidates: int
    """Boxes of each class, at most."""
    most: int
    """Boxes of an image, at most."""


class Figure(StrEnum):
    """What a limit can be set on; the names in edgeprune.toml."""

    LATENCY_P50 = "latency_p50"
    LATENCY_P90 = "latency_p90"
    LOAD_TIME = "load_time"
    FIRST_INFERENCE = "first_inference"
    PEAK_MEMORY = "peak_memory"
    MODEL_SIZE = "model_size"
    PARAMS = "params"
    MACS = "macs"
    UNBLOCKED_CONVS = "unblocked_convs"
    INSTRUCTIONS = "instructions"
    """Of the CPU, for one inference with one thread: the same on a busy machine."""
    ACCURACY = "accuracy_top1"
    CLASS_ACCURACY = "class_accuracy"
    """Of the class that is worst off."""


class Basis(StrEnum):
    """What a limit is measured against."""

    ABSOLUTE = "absolute"
    DENSE = "dense"
    BASELINE = "baseline"
    """A stored report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """One line of a budget."""

    figure: Figure
    basis: Basis = Basis.ABSOLUTE
    value: float
    """Absolute: milliseconds, bytes, a number; for accuracies the least share, in [0, 1]. Against another
    network: the largest ratio of the figures; for accuracies the largest absolute drop, in [0, 1]."""
    warns: bool = False
    """Say it, but do not count it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What the deployed network must keep; None means no limit. Checked by `gate`."""

    max_latency_ms: float | None = None
    max_memory_bytes: int | None = None
    max_size_bytes: int | None = None
    max_accuracy_drop: float | None = None
    """Absolute fall of accuracy against the dense network, in [0, 1]."""
    limits: tuple[Limit, ...] = ()
    """The lines of [budgets] in edgeprune.toml."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec:
    """What the network reads: one float32 tensor of shape (N, *shape)."""

    shape: tuple[int, int, int]
    """(channels, height, width)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxOptions:
    """How a network is written as ONNX."""

    opset: int = 20
    batch: int | None = 1
    """None leaves it free, where the network allows it; runtimes are quicker without."""
    free_size: bool = False
    """Any height and width, where the network allows it."""
    external: bool = False
    """Weights in a file beside, `NAME.onnx.data`; above 2 GB they go there in any case."""
    description: dict[str, str] = field(default_factory=dict)
    """Metadata of the file: labels, preprocessing, provenance."""


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


Kind = Literal["classes", "masks", "boxes", "values"]
"""What images are labelled with: one class each, a class for each pixel, boxes, or any numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """An object in an image, in pixels of the image as it lies on disk: corners, not sizes."""

    label: str
    x0: float
    y0: float
    x1: float
    y1: float
    ignored: bool = False
    """Difficult, or a crowd: neither finding it nor missing it counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskCode:
    """What the pixels of mask files mean."""

    ignore: tuple[int, ...] = (255,)
    """Numbers that count for nothing."""
    colors: tuple[tuple[int, int, int], ...] = ()
    """Colour of each class, where masks are pictures; any other colour counts for nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One image: where it lies, its label, and the digest of its pixels' source bytes."""

    source: str
    """A path, or `path::array::index` for arrays inside an .npz file."""
    label: int
    """Its class; 0 where it is labelled otherwise."""
    digest: str
    mask: str = ""
    """Where its mask lies, as `source`."""
    boxes: tuple[Box, ...] = ()
    answer_digest: str = ""
    """Of its mask or boxes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationSet:
    """Images with labels in three disjoint splits, and how to turn them into network inputs."""

    name: str
    classes: tuple[str, ...]
    preprocess: Preprocess
    samples: dict[Split, tuple[Sample, ...]]
    digest: str
    kind: Kind = "classes"
    code: MaskCode = MaskCode()
    notes: tuple[str, ...] = ()
    """What the reader should know: duplicates left out, classes without images, and so on."""
