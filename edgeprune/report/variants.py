"""The deployed variants side by side: dense, pruned, and what quantization made of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgeprune.records import AccuracyChange, Interval, OperatorTime, Report
from edgeprune.report import figures

DENSE = "dense"
MOST_OPERATORS = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One variant in numbers; None where it was not measured."""

    name: str
    accuracy: Interval | None
    change: AccuracyChange | None
    """From dense."""
    p50_ms: Interval | None
    ratio: Interval | None
    """Its time over dense's, interleaved."""
    peak_bytes: int | None
    size_bytes: int | None
    deployed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A variant against an earlier one that is not dense."""

    later: str
    earlier: str
    ratio: Interval | None
    change: AccuracyChange | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorRow:
    """The same operator, or all of one kind, in each variant; None where a variant has none."""

    name: str
    kind: str
    times_ms: tuple[float | None, ...]
    counts: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Operators:
    """Where the time goes, by kind of operator and by operator, in the variants that were profiled."""

    variants: tuple[str, ...]
    kinds: tuple[OperatorRow, ...]
    longest: tuple[OperatorRow, ...]
    """Of the dense network's (else the first variant's) operators, those that take longest."""
    operators: int
    largest_ms: float
    """Of a kind in a variant."""


def names(report: Report) -> tuple[str, ...]:
    """The variants that were measured or evaluated, in the report's order."""
    return tuple(dict.fromkeys([*report.artifacts, *report.accuracy, *report.measurement.latency]))


def rows(report: Report) -> list[Variant]:
    return [_variant(report, name) for name in names(report)]


def _variant(report: Report, name: str) -> Variant:
    measured = report.measurement
    accuracy, latency = report.accuracy.get(name), measured.latency.get(name)
    memory, artifact = measured.memory.get(name), report.artifacts.get(name)
    return Variant(
        name=name,
        accuracy=accuracy.top1 if accuracy else None,
        change=_change(report, name, DENSE),
        p50_ms=latency.p50_ms if latency else None,
        ratio=_ratio(report, name, DENSE),
        peak_bytes=memory.peak_bytes if memory else None,
        size_bytes=artifact.size_bytes if artifact else None,
        deployed=name == report.deployed,
    )


def pairs(report: Report) -> list[Pair]:
    """Every variant against every earlier one but dense: whether quantizing still pays once pruned, say."""
    found = []
    order = [name for name in names(report) if name != DENSE]
    for place, later in enumerate(order):
        for earlier in order[:place]:
            ratio, change = _ratio(report, later, earlier), _change(report, later, earlier)
            if ratio is not None or change is not None:
                found.append(Pair(later=later, earlier=earlier, ratio=ratio, change=change))
    return found


def _ratio(report: Report, later: str, earlier: str) -> Interval | None:
    found = report.measurement.ratios.get(later, {}).get(earlier)
    if found is None and (later, earlier) == (report.deployed, DENSE):
        return report.measurement.ratio
    return found


def _change(report: Report, later: str, earlier: str) -> AccuracyChange | None:
    found = report.accuracy_changes.get(later, {}).get(earlier)
    if found is None and (later, earlier) == (report.deployed, DENSE):
        return report.accuracy_change
    return found


def accuracy_words(change: AccuracyChange | None) -> str:
    """`-0.28 points (lost 3, gained 2, p = 1)`."""
    if change is None:
        return ""
    drop = figures.points(-change.drop.value)
    return f"{drop} (lost {change.lost}, gained {change.gained}, {figures.p_value(change.p_value)})"


def speed_words(ratio: Interval | None) -> str:
    """`2.13x faster (2.04 to 2.22)`, or how near it is to no change."""
    if ratio is None:
        return ""
    if ratio.high < 1:
        return f"{figures.speed(ratio)} ({1 / ratio.high:.2f} to {1 / ratio.low:.2f})"
    return f"{figures.speed(ratio)} ({ratio.low:.2f} to {ratio.high:.2f} of the time)"


# --- operators ----------------------------------------------------------------------------------------


def operators(report: Report) -> Operators | None:
    """Sum the operators' times by kind and put the longest beside each other; None without a profile."""
    profiles = {name: found for name, found in report.measurement.operators.items() if found}
    if not profiles:
        return None
    kinds = _kinds(profiles)
    first = profiles.get(DENSE) or next(iter(profiles.values()))
    return Operators(
        variants=tuple(profiles),
        kinds=tuple(kinds),
        longest=tuple(_matched(operator, profiles) for operator in first[:MOST_OPERATORS]),
        operators=len(first),
        largest_ms=max(time for row in kinds for time in row.times_ms if time is not None),
    )


def _kinds(profiles: Mapping[str, Sequence[OperatorTime]]) -> list[OperatorRow]:
    kinds = dict.fromkeys(operator.kind for found in profiles.values() for operator in found)
    table = []
    for kind in kinds:
        each = [[o.time_ms for o in found if o.kind == kind] for found in profiles.values()]
        times = tuple(sum(times) if times else None for times in each)
        table.append(OperatorRow(name=kind, kind=kind, times_ms=times, counts=tuple(map(len, each))))
    return sorted(table, key=lambda row: -max(time or 0.0 for time in row.times_ms))


def _matched(operator: OperatorTime, profiles: Mapping[str, Sequence[OperatorTime]]) -> OperatorRow:
    by_name = [{o.name: o.time_ms for o in found} for found in profiles.values()]
    times = tuple(found.get(operator.name) for found in by_name)
    return OperatorRow(name=operator.name, kind=operator.kind, times_ms=times)
