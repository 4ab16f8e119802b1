"""The trajectory as a drawing: accuracy over latency, or over multiply-adds where latency is not known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeprune.records import Candidate, Report
from edgeprune.report import figures
from edgeprune.report.plots import HEIGHT, WIDTH

MARGIN = 0.02
"""Of the box, left free at both sides."""
LEAST_SPAN = 0.02
"""An axis of accuracy spans at least two points."""
FEWEST = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """One network, in box coordinates, with the ends of its interval."""

    candidate: Candidate
    x: float
    y: float
    low_y: float
    high_y: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """The networks from the smallest to the dense one, left to right."""

    dots: tuple[Dot, ...]
    line: str
    """The `d` of an SVG path through them."""
    axis: str
    """What the horizontal axis shows, in words."""
    left: str
    right: str
    low: float
    high: float
    """Accuracy at the bottom and the top, in [0, 1]."""
    by_latency: bool
    images: int
    split: str


def draw(report: Report) -> Course | None:
    """Place the candidates; None where fewer than two were looked at."""
    found = report.candidates
    if len(found) < FEWEST:
        return None
    by_latency = all(candidate.latency_ms is not None for candidate in found)
    places = [candidate.latency_ms or 0.0 if by_latency else 1 - candidate.mac_ratio for candidate in found]
    low, high = _span(found)
    dots = [
        Dot(
            candidate=candidate,
            x=_across(place, places),
            y=_up(candidate.accuracy.value, low, high),
            low_y=_up(candidate.accuracy.low, low, high),
            high_y=_up(candidate.accuracy.high, low, high),
        )
        for candidate, place in zip(found, places, strict=True)
    ]
    dots.sort(key=lambda dot: dot.x)
    word = figures.milliseconds if by_latency else _share
    return Course(
        dots=tuple(dots),
        line="M" + "L".join(f"{dot.x:g} {dot.y:g}" for dot in dots),
        axis=_axis(found, by_latency=by_latency),
        left=word(min(places)),
        right=word(max(places)),
        low=low,
        high=high,
        by_latency=by_latency,
        images=found[0].images,
        split=found[0].split,
    )


def _axis(found: Sequence[Candidate], *, by_latency: bool) -> str:
    if not by_latency:
        return "multiply-adds, share of the dense network's"
    if all(candidate.measured for candidate in found):
        return "latency p50, measured"
    return "latency p50, predicted for the target (measured where the table says so)"


def _span(found: Sequence[Candidate]) -> tuple[float, float]:
    low = min(candidate.accuracy.low for candidate in found)
    high = max(candidate.accuracy.high for candidate in found)
    free = max(LEAST_SPAN - (high - low), 0.0) / 2
    return max(0.0, low - free), min(1.0, high + free)


def _across(place: float, places: Sequence[float]) -> float:
    low, high = min(places), max(places)
    share = (place - low) / (high - low) if high > low else 0.5
    return round(WIDTH * (MARGIN + (1 - 2 * MARGIN) * share), 1)


def _up(accuracy: float, low: float, high: float) -> float:
    return round(HEIGHT * (1 - (accuracy - low) / (high - low)), 1)


def _share(value: float) -> str:
    return f"{100 * value:.0f} %"
