"""What passes between rooms, in the order of making. Frozen data, no behaviour beyond sums.

Units live in the names: `_ms`, `_bytes`, `_ratio` (removed share, in [0, 1]). Accuracies are in [0, 1];
an accuracy drop is absolute, in points (percent) where a user types it and in [0, 1] inside records.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

# --- what the user asks for ---------------------------------------------------------------------------


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


# --- what goes in -------------------------------------------------------------------------------------


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


# --- what can be cut ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Slot:
    """Where a group's units lie on one axis of one parameter or buffer."""

    parameter: str
    axis: int
    indices: Ints
    """Shape (units, copies): unit u owns `indices[u]` of this axis (flatten, heads: several copies)."""
    consumer: bool = False
    """The axis is summed over by its layer: zeroing these entries is masking the unit."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChannelGroup:
    """Coupled channels: `units` units, each removed from every slot or from none."""

    name: str
    """The first producer's parameter, e.g. `layer1.0.conv1.weight`."""
    units: int
    slots: tuple[Slot, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenAxis:
    """An axis of a parameter of which some indices may not be removed, and why."""

    parameter: str
    axis: int
    indices: int
    """How many indices of the axis are frozen."""
    reason: str
    detail: str = ""


# --- what the walk finds ------------------------------------------------------------------------------


class Finding(StrEnum):
    """Verdict of one intervention (METHODS §1)."""

    CRITICAL = "critical"
    NEUTRAL = "neutral"
    DETRIMENTAL = "detrimental"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One intervention: which units were taken out together, what it did, and what was decided."""

    group: str
    units: tuple[int, ...]
    finding: Finding
    removed: bool
    effect: float
    """Causal effect ξ: mean of (σ* - σ)/σ over the images evaluated; positive: the units harm."""
    worst_z: float
    """Smallest z over the classes evaluated."""
    worst_class: int
    evaluated: int
    """Images evaluated before the verdict was sure."""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """The log of a walk: every intervention in order, and what they were judged against."""

    method: str
    alpha: float
    steps: tuple[Step, ...]
    class_names: tuple[str, ...]
    """Classes the test ran on, merged ones joined by `+` (few images per class)."""
    class_samples: tuple[int, ...]
    """n_k: correctly classified calibration images of each."""
    tolerance: tuple[float, ...]
    """Δ_k: how far the mean score of class k could fall before it was called significant."""
    dense_scores: tuple[float, ...]
    """Mean score of the dense network, per class."""
    final_scores: tuple[float, ...]
    """Mean score at the end of the walk, per class."""
    stopped: str
    """Why the walk ended."""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PruningPlan:
    """The units to remove, and nothing else: group name to unit numbers."""

    removed: dict[str, tuple[int, ...]]
    param_ratio: float
    channel_ratio: float
    mac_ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Width:
    """Channels of one group before and after."""

    group: str
    before: int
    after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruning:
    """All that the analysis found about one network on one set of images."""

    trajectory: Trajectory
    plan: PruningPlan
    widths: tuple[Width, ...]
    findings: dict[str, dict[str, int]]
    """Group name -> units per verdict; units without one were not tested."""
    frozen: tuple[FrozenAxis, ...]
    notes: tuple[str, ...] = ()


# --- what is deployed ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """How far two stages disagree on the same images: max |a - b| / max |a|."""

    stage: str
    """e.g. `pruned: torch -> onnx`."""
    error: float
    limit: float
    images: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A file (or .xml/.bin pair) that the target's runtime loads."""

    path: str
    """Relative to the run folder."""
    runtime: str
    size_bytes: int
    digest: str
    input_name: str
    input_shape: tuple[int, ...]
    params: int
    macs: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """One network on its way to the target: the deployed file, and how far each hand-over changed its outputs."""

    artifact: Artifact
    parity: tuple[Parity, ...]
    files: tuple[str, ...]
    """Everything written, relative to the run folder."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A figure with its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Top-1 accuracy of one artifact on one split, on the deployed runtime."""

    top1: Interval
    """Wilson interval."""
    images: int
    per_class: tuple[float | None, ...]
    """None for a class without images."""
    predictions: tuple[int, ...]
    """Per image of the split, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyChange:
    """Dense against pruned on the same images."""

    drop: Interval
    """Top-1 dense minus top-1 pruned, paired bootstrap interval."""
    lost: int
    """Images the dense network had right and the pruned one has wrong."""
    gained: int
    p_value: float
    """Exact McNemar test, two-sided."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Time of one inference at batch size 1, single stream, pooled over fresh processes."""

    p50_ms: Interval
    p90_ms: float
    p99_ms: float | None
    """None below 662 runs (MLPerf's bound for a p99)."""
    cpu_p50_ms: float | None
    """Process CPU time; None for several threads."""
    load_ms: float
    first_ms: float
    runs: int
    processes: int
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Peak resident memory of a fresh process that loads and runs the artifact."""

    peak_bytes: int
    """Total, runtime included."""
    growth_bytes: int
    """Above the bare runtime; median over processes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Dense and pruned, each in fresh processes, interleaved."""

    latency: dict[str, Latency]
    """Keys: `dense`, `pruned` (later also `int8` ...)."""
    memory: dict[str, Memory]
    ratio: Interval
    """Latency of pruned over dense, median of pairwise ratios in interleaved runs."""
    ratio_basis: Literal["cpu time", "wall time"]
    pairs: int
    quality: Literal["good", "noisy"]
    noise: tuple[str, ...]
    """What disturbed the measurement, in words."""
    machine: dict[str, str] = field(default_factory=dict)
    """CPU, features, governor, versions."""


# --- what comes out -----------------------------------------------------------------------------------


class Outcome(StrEnum):
    FITS = "fits"
    OVER = "over"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One budget against what was measured."""

    budget: str
    """e.g. `latency p50`."""
    limit: str
    """As shown to people, unit included, e.g. `12 ms`."""
    value: str
    outcome: Outcome
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    outcome: Outcome
    checks: tuple[Check, ...]
    sentence: str
    """The verdict in one sentence, for people."""

    @property
    def exit_code(self) -> int:
        return {Outcome.FITS: 0, Outcome.OVER: 3, Outcome.UNDECIDED: 4}[self.outcome]


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Enough to make this report again."""

    command: str
    versions: dict[str, str]
    model: str
    model_digest: str
    data: str
    data_digest: str
    config_digest: str
    started: str
    """UTC, ISO 8601."""
    seconds: dict[str, float]
    """Per stage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything a reader or a CI gate needs, dense and deployed."""

    schema_version: str
    target: Target
    budget: Budget
    verdict: Verdict
    artifacts: dict[str, Artifact]
    """Keys: `dense`, `pruned`."""
    accuracy: dict[str, Accuracy]
    accuracy_change: AccuracyChange
    measurement: Measurement
    plan: PruningPlan
    widths: tuple[Width, ...]
    findings: dict[str, dict[str, int]]
    """Group name to units per verdict (critical, neutral, detrimental)."""
    trajectory: Trajectory
    frozen: tuple[FrozenAxis, ...]
    parity: tuple[Parity, ...]
    classes: tuple[str, ...]
    splits: dict[str, int]
    """Images per split."""
    notes: tuple[str, ...]
    provenance: Provenance
