"""What the checks look at: the deployed network's figures, the dense network's, and a baseline's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from edgeprune.records import (
    Accuracy,
    AccuracyChange,
    Artifact,
    Basis,
    Figure,
    Interval,
    Latency,
    Layout,
    Measurement,
    Report,
)

FINGERPRINT = ("cpu", "features", "cores", "kernel", "governor", "openvino", "onnxruntime", "settings")
"""Facts about a machine that must agree before absolute times and memory can be compared."""
DENSE, BASELINE = "dense", "baseline"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that a verdict rests on."""

    artifacts: Mapping[str, Artifact]
    accuracy_change: AccuracyChange
    measurement: Measurement
    accuracy: Mapping[str, Accuracy] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    layouts: Mapping[str, Layout] = field(default_factory=dict)
    data_digest: str = ""
    baseline: Report | None = None
    to_baseline: Interval | None = None
    """Time of the deployed network over the baseline's, interleaved on this machine just now."""
    instructions: Mapping[str, float] = field(default_factory=dict)
    """CPU instructions of an inference, of the deployed variant, `dense` and `baseline`, counted just now."""
    deployed: str = "pruned"
    """The variant that the verdict is about."""


def of_report(report: Report) -> Evidence:
    """What a report holds."""
    return Evidence(
        artifacts=report.artifacts,
        accuracy_change=report.accuracy_change,
        measurement=report.measurement,
        accuracy=report.accuracy,
        classes=report.classes,
        layouts=report.layouts,
        data_digest=report.provenance.data_digest,
        deployed=report.deployed,
    )


def other(evidence: Evidence, basis: Basis) -> tuple[Evidence, str] | None:
    """Return where the network to compare with is found, and its name there; None without a baseline."""
    if basis is Basis.DENSE:
        return evidence, DENSE
    if evidence.baseline is None:
        return None
    baseline, counted = of_report(evidence.baseline), evidence.instructions.get(BASELINE)
    instructions = {} if counted is None else {baseline.deployed: counted}
    return replace(baseline, instructions=instructions), baseline.deployed


def figure(evidence: Evidence, name: str, figure: Figure) -> float | None:
    """Return a figure of one network; None where it is not known."""
    known: dict[Figure, float] = {}
    if latency := evidence.measurement.latency.get(name):
        known |= {
            Figure.LATENCY_P50: latency.p50_ms.value,
            Figure.LATENCY_P90: latency.p90_ms,
            Figure.LOAD_TIME: latency.load_ms,
            Figure.FIRST_INFERENCE: latency.first_ms,
        }
    if memory := evidence.measurement.memory.get(name):
        known[Figure.PEAK_MEMORY] = memory.peak_bytes
    if artifact := evidence.artifacts.get(name):
        known |= {
            Figure.MODEL_SIZE: artifact.size_bytes,
            Figure.PARAMS: artifact.params,
            Figure.MACS: artifact.macs,
        }
    if layout := evidence.layouts.get(name):
        known[Figure.UNBLOCKED_CONVS] = layout.unblocked
    if name in evidence.instructions:
        known[Figure.INSTRUCTIONS] = evidence.instructions[name]
    return known.get(figure)


def interval(latency: Latency, figure: Figure) -> Interval | None:
    """Return the interval of a time; None where it has none (too few runs, or one value a process)."""
    if figure is Figure.LATENCY_P50:
        return latency.p50_ms
    return latency.p90_interval_ms if figure is Figure.LATENCY_P90 else None


def machine_differences(evidence: Evidence, baseline: Evidence) -> list[str]:
    """Return the facts in which two machines differ, as `cpu: A, was B`."""
    now, then = evidence.measurement.machine, baseline.measurement.machine
    found = [
        f"{fact}: {now.get(fact, 'unknown')}, was {then.get(fact, 'unknown')}"
        for fact in FINGERPRINT
        if now.get(fact) != then.get(fact)
    ]
    threads, before = (e.measurement.latency[e.deployed].threads for e in (evidence, baseline))
    return [*found, *([f"threads: {threads}, were {before}"] if threads != before else [])]
