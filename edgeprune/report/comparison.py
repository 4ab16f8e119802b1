"""comparison.html: several runs on one page, models x targets. No scripts, no requests."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from edgeprune.records import Interval, Outcome, Report
from edgeprune.report import figures
from edgeprune.report.plots import HEIGHT, WIDTH
from edgeprune.report.templates import template

WORDS = {Outcome.FITS: "fits", Outcome.OVER: "over budget", Outcome.UNDECIDED: "undecided"}
MARGIN = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One run, dense to deployed; `number` counts from 1."""

    number: int
    name: str
    link: str
    """Relative address of its own page; empty: none."""
    model: str
    target: str
    status: str
    status_words: str
    dense_top1: float
    top1: float
    change: float
    dense_ms: float
    p50_ms: float
    ratio: Interval
    peak: str
    dense_bytes: int
    size_bytes: int
    machine: str
    runtime: str
    threads: int
    quality: str
    images: int
    param_ratio: float
    method: str
    started: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One run in box coordinates."""

    number: int
    name: str
    dense: tuple[float, float]
    deployed: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """Accuracy over the logarithm of latency."""

    lines: tuple[Line, ...]
    left: float
    right: float
    low: float
    high: float


def render(reports: Sequence[tuple[str, str, Report]]) -> str:
    """Return the page.

    Args:
        reports: Name, address of its own page (or empty) and report of each run.
    """
    found = rows(reports)
    counts = Counter(row.status for row in found)
    return template("comparison.html.j2").render(
        rows=found,
        models=list(dict.fromkeys(row.model for row in found)),
        targets=list(dict.fromkeys(row.target for row in found)),
        counts={name: counts[name] for name in (*map(str, Outcome), "none")},
        same_data=len({(r.provenance.data_digest, r.splits.get("evaluation")) for *_, r in reports}) == 1,
        machines=len({row.machine for row in found}),
        plot=_plot(found),
        metric=common_metric([report for *_, report in reports]),
        box=(WIDTH, HEIGHT),
    )


def common_metric(reports: Sequence[Report]) -> str:
    """The metric of all these reports, or a word for several."""
    names = {report.accuracy_change.metric for report in reports}
    return names.pop() if len(names) == 1 else "accuracy"


def rows(reports: Sequence[tuple[str, str, Report]]) -> list[Row]:
    """Return what the page says of each run, as figures."""
    return [_row(number, *found) for number, found in enumerate(reports, start=1)]


def _row(number: int, name: str, link: str, report: Report) -> Row:
    dense, deployed = figures.both(report)
    measured, verdict = report.measurement, report.verdict
    memory = measured.memory.get(deployed)
    budget = bool(verdict.checks)
    return Row(
        number=number,
        name=name,
        link=link,
        model=report.provenance.model,
        target=report.target.name,
        status=verdict.outcome.value if budget else "none",
        status_words=WORDS[verdict.outcome] if budget else "no budget",
        dense_top1=report.accuracy[dense].top1.value,
        top1=report.accuracy[deployed].top1.value,
        change=-report.accuracy_change.drop.value,
        dense_ms=measured.latency[dense].p50_ms.value,
        p50_ms=measured.latency[deployed].p50_ms.value,
        ratio=measured.ratio,
        peak=figures.size(memory.peak_bytes) if memory else "unknown",
        dense_bytes=report.artifacts[dense].size_bytes,
        size_bytes=report.artifacts[deployed].size_bytes,
        machine=measured.machine.get("cpu", "unknown"),
        runtime=f"{report.target.runtime} {measured.machine.get(report.target.runtime, '')}".strip(),
        threads=measured.latency[deployed].threads,
        quality=measured.quality,
        images=report.accuracy[deployed].images,
        param_ratio=report.plan.param_ratio,
        method=report.trajectory.method,
        started=report.provenance.started,
    )


def _plot(found: Sequence[Row]) -> Plot:
    times = [time for row in found for time in (row.dense_ms, row.p50_ms)]
    accuracies = [value for row in found for value in (row.dense_top1, row.top1)]
    low, high = min(accuracies), max(accuracies)
    free = max(0.01, 0.1 * (high - low))
    low, high = max(0.0, low - free), min(1.0, high + free)

    def place(time: float, accuracy: float) -> tuple[float, float]:
        least, most = math.log(min(times)), math.log(max(times))
        share = (math.log(time) - least) / (most - least) if most > least else 0.5
        x = WIDTH * (MARGIN + (1 - 2 * MARGIN) * share)
        return round(x, 1), round(HEIGHT * (1 - (accuracy - low) / (high - low)), 1)

    lines = [
        Line(
            number=row.number,
            name=row.name,
            dense=place(row.dense_ms, row.dense_top1),
            deployed=place(row.p50_ms, row.top1),
        )
        for row in found
    ]
    return Plot(lines=tuple(lines), left=min(times), right=max(times), low=low, high=high)
