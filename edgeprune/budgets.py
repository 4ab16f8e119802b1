"""The [budgets] of edgeprune.toml and the --limit of a command line, as limits that the gate checks.

[budgets.default]                  # of every target; [budgets.NAME] wins key by key
latency_p50 = "45 ms"
latency_p90 = { max = "60 ms", level = "warn" }
latency_ratio = { max = 0.85, vs = "dense" }
regression = { max = "+3 %", vs = "baseline" }
accuracy_top1 = { min = "69 %", max_drop = "1 pp", vs = "dense" }
peak_memory = [{ max = "120 MB" }, { max = "+1 %", vs = "baseline" }]
macs = "900 M"
unblocked_convs = 0
instructions = { max = "+1 %", vs = "baseline" }   # counted by `gate`, with perf or valgrind
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgeprune import quantities
from edgeprune.errors import ConfigError
from edgeprune.records import Basis, Figure, Limit

DEFAULT = "default"
ALIASES = {"latency_ratio": Figure.LATENCY_P50, "regression": Figure.LATENCY_P50}
"""Other words for the p50 against another network; `regression` is against the baseline."""
ACCURACIES = (Figure.ACCURACY, Figure.CLASS_ACCURACY)
BASES = {"dense": Basis.DENSE, "unpruned": Basis.DENSE, "baseline": Basis.BASELINE}
KEYS = (*Figure, *ALIASES)
Text = str | int | float


class Line(BaseModel):
    """A limit written as a table."""

    model_config = ConfigDict(extra="forbid")

    max: Text | None = None
    min: Text | None = None
    max_drop: Text | None = None
    vs: Literal["dense", "unpruned", "baseline"] | None = None
    level: Literal["off", "warn", "error"] = "error"
    confidence: float = Field(default=0.95, ge=0.95, le=0.95)
    """Written down for the reader: all intervals are of 95 %."""


def read(tables: Mapping[str, object], *, target: str) -> tuple[Limit, ...]:
    """Return the limits for one target: those of `default`, and the target's own in their place.

    Raises:
        ConfigError: An unknown key or a value without its unit.
    """
    merged: dict[str, tuple[str, object]] = {}
    for name in (DEFAULT, target):
        table = tables.get(name, {})
        if not isinstance(table, Mapping):
            raise ConfigError(f"[budgets.{name}]: not a table; write limits under [budgets.{name}].")
        merged |= {str(key): (f"[budgets.{name}] {key}", entry) for key, entry in table.items()}
    return tuple(limit for key, (place, entry) in merged.items() for limit in _limits(place, key, entry))


def parse(text: str) -> Limit:
    """Return the limit of a flag: `latency_p90 <= 12ms`, `latency_p50 <= 0.9 vs dense`.

    Accuracies have a least value, `accuracy_top1 >= 69%`. A drop of accuracy is written as what may be lost:
    `accuracy_top1 >= -1pp vs baseline`.
    """
    found = re.fullmatch(r"\s*(\w+)\s*(<=|>=)\s*(.+?)(?:\s+vs\s+(\w+))?\s*", text)
    place = f"--limit {text!r}"
    if found is None:
        raise ConfigError(f"{place}: write FIGURE <= VALUE, like 'latency_p90 <= 12ms'.")
    key, sign, value, vs = found.groups()
    entry: dict[str, object] = {} if vs is None else {"vs": vs}
    if sign == "<=":
        entry["max"] = value
    elif vs is None:
        entry["min"] = value
    else:
        entry["max_drop"] = value.removeprefix("-")
    limits = _limits(place, key, entry)
    return limits[0]


def _limits(place: str, key: str, entry: object) -> list[Limit]:
    if key not in KEYS:
        near = difflib.get_close_matches(key, KEYS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"the figures are {', '.join(KEYS)}."
        raise ConfigError(f"{place}: no such figure; {hint}")
    lines = entry if isinstance(entry, list) else [entry]
    return [limit for line in lines for limit in _limits_of_line(place, key, line)]


def _limits_of_line(place: str, key: str, entry: object) -> list[Limit]:
    table = entry if isinstance(entry, Mapping) else {"max": entry}
    figure = ALIASES.get(key) or Figure(key)
    try:
        line = Line.model_validate(dict(table))
        basis = _basis(key, line)
        limits = [] if line.level == "off" else _bounds(figure, basis, line)
    except ValidationError as err:
        first = err.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{place}: {where}: {first['msg']}.") from err
    except ValueError as err:
        raise ConfigError(f"{place}: {err}.") from err
    return limits


def _basis(key: str, line: Line) -> Basis:
    if line.vs is not None:
        return BASES[line.vs]
    if key == "regression":
        return Basis.BASELINE
    return Basis.DENSE if key in ALIASES or line.max_drop is not None else Basis.ABSOLUTE


def _bounds(figure: Figure, basis: Basis, line: Line) -> list[Limit]:
    warns = line.level == "warn"
    found = []
    if figure in ACCURACIES:
        if line.max is not None:
            raise ValueError("an accuracy has a `min` or a `max_drop`, no largest value")
        if line.min is not None:
            least = quantities.share(line.min)
            found.append(Limit(figure=figure, basis=Basis.ABSOLUTE, value=least, warns=warns))
        if line.max_drop is not None:
            most = quantities.points(line.max_drop)
            found.append(Limit(figure=figure, basis=basis, value=most, warns=warns))
    else:
        if line.min is not None or line.max_drop is not None:
            raise ValueError("only accuracies have a `min` or a `max_drop`; write `max`")
        if line.max is not None:
            read_value = ABSOLUTE[figure] if basis is Basis.ABSOLUTE else quantities.ratio
            found.append(Limit(figure=figure, basis=basis, value=read_value(line.max), warns=warns))
    if not found:
        raise ValueError("no limit in it; write `max`, or `min` and `max_drop` for accuracies")
    return found


def _time(text: object) -> float:
    return quantities.quantity("time", text) or 0.0


def _size(text: object) -> float:
    return quantities.quantity("size", text) or 0.0


ABSOLUTE: dict[Figure, Callable[[object], float]] = {
    Figure.LATENCY_P50: _time,
    Figure.LATENCY_P90: _time,
    Figure.LOAD_TIME: _time,
    Figure.FIRST_INFERENCE: _time,
    Figure.PEAK_MEMORY: _size,
    Figure.MODEL_SIZE: _size,
    Figure.PARAMS: quantities.count,
    Figure.MACS: quantities.count,
    Figure.UNBLOCKED_CONVS: quantities.count,
    Figure.INSTRUCTIONS: quantities.count,
}
