"""What is deployed, how it was measured, and what comes out."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from edgeprune.records.asked import Budget, Target
from edgeprune.records.found import FrozenAxis, PruningPlan, Trajectory, Width
from edgeprune.records.modelled import Forecast


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
class Quantized:
    """How a network was brought to 8 bits."""

    method: str
    """The library and its version, and the scheme, in words."""
    images: int
    """Calibration images that the ranges come from."""
    layers: int
    """Layers with weights that could be quantized."""
    kept_float: tuple[str, ...] = ()
    """Layers left in float32, because the validation images lost too much with them."""
    limit: float | None = None
    """Drop of accuracy allowed on the validation images, pruning included, in [0, 1]; None: none was set."""
    drop: float | None = None
    """Drop on the validation images against the dense network, in [0, 1]; None without such images."""
    before_fallback: float | None = None
    """The drop with all layers quantized."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """One network on its way to the target: the deployed file, and what each hand-over changed."""

    artifact: Artifact
    parity: tuple[Parity, ...]
    files: tuple[str, ...]
    """Everything written, relative to the run folder."""
    notes: tuple[str, ...] = ()
    quantized: Quantized | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A figure with its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """How good one artifact is on one split, on the deployed runtime."""

    top1: Interval
    """The figure that `metric` names: top-1 with Wilson's interval, others with a bootstrap's."""
    images: int
    per_class: tuple[float | None, ...]
    """None for a class without images."""
    predictions: tuple[int, ...]
    """Per image of the split, in order; empty where an answer is more than a class."""
    wrong: tuple[int, ...] | None = None
    """Images that it gets wrong; None in older reports, and where answers are more than a class."""
    metric: str = "top-1"
    per_image: tuple[float, ...] = ()
    """How good the answer to each image is, where it is not right or wrong."""
    others: dict[str, float] = field(default_factory=dict)
    """Further figures of the same answers, by their names."""
    files: tuple[str, ...] = ()
    """In the run folder: the answers, where they are more than a class."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyChange:
    """Dense against the deployed variant, or one variant against another, on the same images."""

    drop: Interval
    """Top-1 of the first minus top-1 of the second, paired bootstrap interval."""
    lost: int
    """Images the first had right and the second has wrong, or answers worse."""
    gained: int
    p_value: float
    """Of the test, two-sided."""
    test: str = "exact McNemar"
    metric: str = "top-1"


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
    p90_interval_ms: Interval | None = None
    """None below 64 runs (MLPerf's bound for a p90), and in older reports."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Peak resident memory of a fresh process that loads and runs the artifact."""

    peak_bytes: int
    """Total, runtime included."""
    growth_bytes: int
    """Above the bare runtime; median over processes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """Inferences per second when several run at once; says nothing about the time of one."""

    per_second: float
    streams: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorTime:
    """One operator of an artifact as the runtime ran it: fused, reordered, under the runtime's own name."""

    name: str
    kind: str
    time_ms: float
    """Mean of the faster half of some runs, profiler on: for comparing operators, not for adding up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How ONNX Runtime laid out a network's convolutions for this CPU; no clock, so no noise."""

    convolutions: int
    unblocked: int
    """Convolutions left out of the blocked layout: for most, because of an odd number of channels."""
    reorders: int
    """Conversions between the layouts."""
    blocked_layout: bool
    """Whether this CPU has one (x86-64 has; where it has none, `unblocked` is 0 and says nothing)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instructions:
    """CPU instructions of one inference, the difference between runs of a few inferences more and less."""

    per_inference: float
    method: str
    """`callgrind` or `perf`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """All variants, each in fresh processes, and interleaved."""

    latency: dict[str, Latency]
    """Keys: the variants, as of `Report.artifacts`."""
    memory: dict[str, Memory]
    """Empty where the system does not tell."""
    ratio: Interval
    """Latency of the deployed variant over dense, median of pairwise ratios in interleaved runs."""
    ratio_basis: Literal["cpu time", "wall time"]
    pairs: int
    quality: Literal["good", "noisy"]
    noise: tuple[str, ...]
    """What disturbed the measurement, in words."""
    machine: dict[str, str] = field(default_factory=dict)
    """CPU, features, governor, versions, the runtime's settings."""
    throughput: dict[str, Throughput] = field(default_factory=dict)
    energy_mj: dict[str, float] = field(default_factory=dict)
    """Of one inference, the whole CPU's, where the system tells."""
    operators: dict[str, tuple[OperatorTime, ...]] = field(default_factory=dict)
    ratios: dict[str, dict[str, Interval]] = field(default_factory=dict)
    """Latency of each variant over each earlier one, `ratios["pruned+int8"]["int8"]` for example, from the
    same rounds as `ratio`; empty for two variants and in older reports."""


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
    warns: bool = False
    """Said, but not counted in the verdict."""


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
    """What made it; `seconds` by stage, `components` by name and version: SHA-256 of the list of files."""

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
    components: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A network at one place of the trajectory, and what was known of it there."""

    param_ratio: float
    mac_ratio: float
    accuracy: Interval
    """Top-1 on images that the walk did not judge by (Wilson interval)."""
    images: int
    split: str
    """Which images: `validation`, or `calibration` where there are none."""
    latency_ms: float | None = None
    """p50 on the target; None: not known."""
    measured: bool = False
    """Whether `latency_ms` was measured; else it is predicted."""
    chosen: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedImage:
    """An evaluation image that the dense network and the deployed variant answer differently."""

    number: int
    """In the evaluation split."""
    label: int
    dense: int
    """The class that each answers."""
    deployed: int
    picture: str
    """What the networks saw, small, as a data URI."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PicturedAnswer:
    """What the networks answer to an evaluation image, in pictures side by side."""

    number: int
    """In the evaluation split."""
    names: tuple[str, ...]
    """What each picture (a data URI) shows: `input`, `labelled`, `dense` ..."""
    pictures: tuple[str, ...]
    score: str
    """What says how good each answer is, as `Accuracy.per_image`: `mIoU` ..."""
    dense: float
    deployed: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything a reader or a CI gate needs, dense and deployed."""

    schema_version: str
    target: Target
    budget: Budget
    verdict: Verdict
    artifacts: dict[str, Artifact]
    """Keys: the variants `dense`, `pruned`, and of a quantized build also `int8` (the dense network
    quantized) and `pruned+int8`."""
    accuracy: dict[str, Accuracy]
    accuracy_change: AccuracyChange
    """Dense against the deployed variant."""
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
    layouts: dict[str, Layout] = field(default_factory=dict)
    """Keys as of `artifacts`, where the runtime is ONNX Runtime."""
    deployed: str = "pruned"
    """The variant that the verdict, `accuracy_change` and `measurement.ratio` are about."""
    accuracy_changes: dict[str, dict[str, AccuracyChange]] = field(default_factory=dict)
    """How accuracy changed from each earlier variant to each, `["pruned+int8"]["int8"]` for example; empty
    for two variants and in older reports."""
    quantized: dict[str, Quantized] = field(default_factory=dict)
    """How the int8 variants were made."""
    forms: dict[str, Artifact] = field(default_factory=dict)
    """Other forms of the deployed network: `ort`, `optimized` (for this CPU), `frame` (reads frames) ..."""
    candidates: tuple[Candidate, ...] = ()
    """Networks along the trajectory, the dense one first; empty in older reports."""
    changed: tuple[ChangedImage, ...] = ()
    """A few of the evaluation images that the deployed variant answers differently."""
    pictured: tuple[PicturedAnswer, ...] = ()
    """A few answers that are more than a class."""
    forecast: Forecast | None = None
    """Where a latency model of the target was made."""

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        from edgeprune.report.notebook import report_card  # the one way up: a notebook asks the record

        return report_card(self)
