"""Figures as the gate says them."""

from __future__ import annotations

import math

from edgeprune.records import Interval

_SMALLEST_P = 0.001
"""Below this a p-value is only said to be below it."""
_MB = 1_000_000
_COUNTS = ((1e9, " G"), (1e6, " M"), (1e3, " k"))


def points_changed(drop: float, metric: str) -> str:
    change = f"{-100 * drop:+.2f}"
    return f"unchanged {metric}" if change in {"+0.00", "-0.00"} else f"{change} points {metric}"


def p_value(p: float) -> str:
    return f"= {p:.2g}" if p >= _SMALLEST_P else f"< {_SMALLEST_P}"


def short(value: float) -> str:
    """Three significant digits, never with an exponent."""
    digits = 2 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:.{max(0, digits)}f}"


def milliseconds(value_ms: float) -> str:
    return f"{short(value_ms)} ms"


def size(size_bytes: float) -> str:
    return f"{short(size_bytes / _MB)} MB" if size_bytes >= _MB else f"{short(size_bytes / 1000)} kB"


def exact_size(limit_bytes: float) -> str:
    return f"{limit_bytes / _MB:.10g} MB"


def count(value: float) -> str:
    for unit, name in _COUNTS:
        if value >= unit:
            return f"{value / unit:.4g}{name}"
    return f"{value:g}"


def percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def points(drop: float) -> str:
    return f"{100 * drop:.2f} points"


def interval(found: Interval, *, digits: int | None = None) -> str:
    """`95 % CI 4.58 to 4.71`."""
    low, high = ((short(v) if digits is None else f"{v:.{digits}f}") for v in (found.low, found.high))
    return f"95 % CI {low} to {high}"


def margin(limit_bytes: float, value_bytes: float) -> str:
    side = "below" if value_bytes <= limit_bytes else "above"
    return f"{size(abs(limit_bytes - value_bytes))} {side} the limit"
