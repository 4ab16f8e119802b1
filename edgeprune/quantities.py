"""Numbers with units, as people type them: `12ms`, `120 MB`, `900 M`, `+3 %`, `1 pp`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

MILLISECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
BYTES = {"B": 1, "KB": 1_000, "MB": 1_000_000, "GB": 1_000_000_000, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
UNITS: Mapping[str, Mapping[str, float]] = {"time": MILLISECONDS, "size": BYTES}
EXAMPLES = {"time": "12ms", "size": "120MB"}
COUNTS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
NUMBER = r"([0-9]*\.?[0-9]+)"


def quantity(kind: Literal["time", "size"], text: object) -> float | None:
    """`12ms` -> 12.0 (milliseconds), `120 MB` -> 120000000.0 (bytes); a unit is required."""
    if text is None:
        return None
    found = re.fullmatch(rf"\s*{NUMBER}\s*([A-Za-z]+)\s*", str(text))
    units = {name.lower(): factor for name, factor in UNITS[kind].items()}
    if found is None or found[2].lower() not in units:
        raise ValueError(
            f"{text!r} is not a {kind}; "
            f"write a number with a unit, like {EXAMPLES[kind]} ({', '.join(UNITS[kind])})"
        )
    return float(found[1]) * units[found[2].lower()]


def count(text: object) -> float:
    """`900 M` -> 900000000.0; `0` -> 0.0."""
    found = re.fullmatch(rf"\s*{NUMBER}\s*([kMG]?)\s*", str(text))
    if found is None:
        raise ValueError(f"{text!r} is not a number of things; write one like 900 M (k, M, G)")
    return float(found[1]) * COUNTS[found[2]]


def ratio(text: object) -> float:
    """`0.85` -> 0.85, `85 %` -> 0.85, `+3 %` -> 1.03, `-10 %` -> 0.9."""
    found = re.fullmatch(rf"\s*([+-]?)\s*{NUMBER}\s*(%?)\s*", str(text))
    if found is None or (found[1] and not found[3]):
        raise ValueError(f"{text!r} is not a ratio; write one like 0.85, 85 % or +3 %")
    share = float(found[2]) / (100 if found[3] else 1)
    return 1 + (share if found[1] == "+" else -share) if found[1] else share


def share(text: object) -> float:
    """`69 %` -> 0.69."""
    found = re.fullmatch(rf"\s*{NUMBER}\s*%\s*", str(text))
    if found is None:
        raise ValueError(f"{text!r} is not a share; write one like 69 %")
    return float(found[1]) / 100


def points(text: object) -> float:
    """`1 pp` -> 0.01, `0.5 points` -> 0.005."""
    found = re.fullmatch(rf"\s*{NUMBER}\s*(?:pp|points?)\s*", str(text))
    if found is None:
        raise ValueError(f"{text!r} is no difference of shares; write one like 1 pp (percentage points)")
    return float(found[1]) / 100
