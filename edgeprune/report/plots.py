"""Numbers to coordinates. Every drawing is a box of WIDTH x HEIGHT that the page stretches to its own size.

Axis labels and names are text of the page, not of the drawing: they stay readable on a phone, and nothing
that a user named is ever put together into markup here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from edgeprune.records import Trajectory
from edgeprune.report.facts import GroupWidth, removed_so_far, thin
from edgeprune.report.interventions import Vetoes

WIDTH = 1000
HEIGHT = 300
_POINTS = 400
"""A drawing shows at most about this many points, however long the walk was."""
_LOWEST_Z, _HIGHEST_Z = -6.0, 6.0
"""The drawing of z ends here; what lies beyond is drawn on its edge."""

_TOP_SHARES = (0.1, 0.25, 0.5)
"""The drawing of removed shares ends at the first of these that holds it, else at 1."""

Point = tuple[float, float]
"""A place in the unit square, (0, 0) at the lower left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One part of a stacked column, in box coordinates."""

    kind: str
    y: float
    height: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One group as a column that fills the height; `kept_y` is where its deployed width ends."""

    group: GroupWidth
    x: float
    width: float
    bars: tuple[Bar, ...]
    kept_y: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One class and one group of a heat map, in box coordinates; `strength` is in (0, 1]."""

    x: float
    y: float
    width: float
    height: float
    strength: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Heat:
    """Classes from the top, groups from the left; where nothing is drawn is nothing."""

    classes: tuple[str, ...]
    left_out: int
    """Classes with fewer than those shown."""
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WalkPlot:
    """Paths (the `d` of SVG) over the interventions: units removed so far, and the worst z of each."""

    removed: str
    top_share: float
    """The share of units at the top of the `removed` box."""
    accepted: str
    rejected: str
    low_z: float
    high_z: float
    limit_z: float
    """The normal quantile; classes with few samples are held to the wider t quantile."""
    limit_y: float


def widths(groups: Sequence[GroupWidth]) -> list[Column]:
    """Draw each group as a column of its verdicts, critical at the bottom."""
    pitch = WIDTH / max(len(groups), 1)
    return [_column(group, i * pitch, pitch * 0.8) for i, group in enumerate(groups)]


def _column(group: GroupWidth, x: float, width: float) -> Column:
    units = {
        "critical": group.critical,
        "untested": group.untested,
        "neutral": group.neutral,
        "detrimental": group.detrimental,
    }
    unit_height = HEIGHT / max(sum(units.values()), group.before, 1)
    bars, top = [], float(HEIGHT)
    for kind, count in units.items():
        top -= count * unit_height
        bars.append(Bar(kind=kind, y=_round(top), height=_round(count * unit_height)))
    return Column(
        group=group,
        x=_round(x),
        width=_round(width),
        bars=tuple(bar for bar in bars if bar.height),
        kept_y=_round(HEIGHT - group.after * unit_height),
    )


def heat(vetoes: Vetoes, most: int) -> Heat | None:
    """Draw how many units of each group each class vetoed; None where no class vetoed any."""
    rows = vetoes.counts[:most]
    if not rows:
        return None
    pitch, height = WIDTH / len(vetoes.groups), HEIGHT / len(rows)
    cells = [
        Cell(
            x=_round(column * pitch),
            y=_round(row * height),
            width=_round(pitch * 0.94),
            height=_round(height * 0.9),
            strength=_shade(count / vetoes.largest),
        )
        for row, counts in enumerate(rows)
        for column, count in enumerate(counts)
        if count
    ]
    return Heat(classes=vetoes.classes[:most], left_out=len(vetoes.counts) - len(rows), cells=tuple(cells))


def _shade(share: float) -> float:
    """The weakest must still be seen."""
    return round(0.15 + 0.85 * share, 2)


def walk(trajectory: Trajectory, units: int) -> WalkPlot | None:
    """Draw the course of a walk over a network of `units`; None when there was nothing to do."""
    steps = trajectory.steps
    if not steps or not units:
        return None
    limit_z = NormalDist().inv_cdf(trajectory.alpha)
    low_z = max(_LOWEST_Z, min(1.5 * limit_z, *(step.worst_z for step in steps)))
    high_z = min(_HIGHEST_Z, max(1.0, *(step.worst_z for step in steps)))
    shares = [0.0, *(min(count / units, 1.0) for count in removed_so_far(trajectory))]
    top_share = next((top for top in _TOP_SHARES if shares[-1] <= top), 1.0)
    points = [(i / len(steps), _scale(step.worst_z, low_z, high_z)) for i, step in enumerate(steps, start=1)]
    return WalkPlot(
        removed=_curve([share / top_share for share in shares]),
        top_share=top_share,
        accepted=_dots([point for point, step in zip(points, steps, strict=True) if step.removed]),
        rejected=_dots([point for point, step in zip(points, steps, strict=True) if not step.removed]),
        low_z=low_z,
        high_z=high_z,
        limit_z=limit_z,
        limit_y=_round(HEIGHT * (1 - _scale(limit_z, low_z, high_z))),
    )


def _curve(heights: Sequence[float]) -> str:
    """Draw heights in [0, 1], evenly spaced from left to right."""
    last = max(len(heights) - 1, 1)
    return "M" + "L".join(_place((i / last, heights[i])) for i in thin(len(heights), _POINTS))


def _dots(points: Sequence[Point]) -> str:
    """Draw points as strokes without length, which round line ends turn into dots at any size of the page.

    Where points crowd, only the lowest and the highest of each stretch are drawn.
    """
    return "".join(f"M{_place(point)}h0" for point in _extremes(points, _POINTS // 2))


def _extremes(points: Sequence[Point], stretches: int) -> list[Point]:
    if len(points) <= 2 * stretches:
        return list(points)
    ends: dict[int, tuple[Point, Point]] = {}
    for point in points:
        stretch = min(int(point[0] * stretches), stretches - 1)
        low, high = ends.get(stretch, (point, point))
        ends[stretch] = (min(low, point, key=_height), max(high, point, key=_height))
    return [point for pair in ends.values() for point in dict.fromkeys(pair)]


def _height(point: Point) -> float:
    return point[1]


def _place(point: Point) -> str:
    return f"{_round(WIDTH * point[0]):g} {_round(HEIGHT * (1 - point[1])):g}"


def _scale(value: float, low: float, high: float) -> float:
    """Place a value between low and high in [0, 1]; what lies outside is put on the edge."""
    return min(max((value - low) / (high - low), 0.0), 1.0)


def _round(coordinate: float) -> float:
    return round(coordinate, 1)
