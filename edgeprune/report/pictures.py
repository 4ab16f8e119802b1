"""Drawings that stand alone, as SVG with their own names and legend: what `explain --out` writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from edgeprune.records import GroupEffects
from edgeprune.report.facts import GroupWidth
from edgeprune.report.interventions import Vetoes

_LEFT, _TOP, _STEP, _ROW, _TALL, _NAMES = 190, 58, 26, 18, 240, 150
"""Pixels: left of the drawing, above it, a column, a row, the stacked bars, the names below."""
_LONGEST = 28


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    kind: str
    x: float
    y: float
    width: float
    height: float
    words: str
    strength: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    x: float
    y: float
    words: str
    anchor: str = "end"
    steep: bool = False


def layers(groups: Sequence[GroupWidth]) -> str:
    """Stacked bars: the units of each group by verdict, critical at the bottom."""
    fields = []
    for place, group in enumerate(groups):
        counts = {kind: getattr(group, kind) for kind in ("critical", "untested", "neutral", "detrimental")}
        scale = _TALL / max(sum(counts.values()), 1)
        bottom = float(_TOP + _TALL)
        for kind, count in counts.items():
            bottom -= count * scale
            words = f"{group.group}: {count} {kind}"
            fields.append(_field(kind, place, bottom, count * scale, words))
    marks = [
        Label(x=_LEFT - 8, y=_TOP + _TALL * (1 - share) + 4, words=f"{share:.0%}") for share in (0, 0.5, 1)
    ]
    return _render(
        (
            "Units of each group by verdict",
            "blue: critical; grey: not tested; pale: neutral; orange: detrimental",
        ),
        [field for field in fields if field.height],
        [*marks, *_columns([group.group for group in groups], _TOP + _TALL)],
        height=_TOP + _TALL + _NAMES,
        columns=len(groups),
    )


def vetoes(found: Vetoes, most: int) -> str:
    """Heat map: how many units of each group each class kept."""
    fields = [
        _cell("heat", place, row, count / found.largest, f"{name}, {group}: {count} units")
        for row, (name, counts) in enumerate(zip(found.classes[:most], found.counts, strict=False))
        for place, (group, count) in enumerate(zip(found.groups, counts, strict=True))
        if count
    ]
    return _heat(
        "Units that each class kept, by group",
        f"the darkest field is {found.largest}; {max(0, len(found.classes) - most)} classes are not drawn",
        fields,
        found.classes[:most],
        found.groups,
    )


def effects(tables: Sequence[GroupEffects], most: int) -> str:
    """Heat map: the mean effect of taking out one unit, by class and group; classes that lose most first."""
    names = tables[0].class_names if tables else ()
    means = [
        [sum(unit.effects[k] for unit in table.units) / max(len(table.units), 1) for table in tables]
        for k in range(len(names))
    ]
    order = sorted(range(len(names)), key=lambda k: min(means[k], default=0.0))[:most]
    largest = max((abs(mean) for k in order for mean in means[k]), default=0.0)
    fields = [
        _cell(
            "fell" if means[k][place] < 0 else "rose",
            place,
            row,
            abs(means[k][place]) / largest,
            f"{names[k]}, {table.group}: {means[k][place]:+.4f}",
        )
        for row, k in enumerate(order)
        for place, table in enumerate(tables)
        if means[k][place]
    ]
    return _heat(
        "Mean effect of one unit on each class, by group",
        f"blue: the class needs the units; orange: they harm it; the darkest field is {largest:.4f}",
        fields,
        [names[k] for k in order],
        [table.group for table in tables],
    )


def _heat(
    title: str, legend: str, fields: Sequence[Field], classes: Sequence[str], groups: Sequence[str]
) -> str:
    bottom = _TOP + len(classes) * _ROW
    rows = [
        Label(x=_LEFT - 8, y=_TOP + row * _ROW + 13, words=_short(name)) for row, name in enumerate(classes)
    ]
    return _render(
        (title, legend),
        fields,
        [*rows, *_columns(groups, bottom)],
        height=bottom + _NAMES,
        columns=len(groups),
    )


def _field(kind: str, place: int, y: float, height: float, words: str) -> Field:
    x = _LEFT + place * _STEP
    return Field(kind=kind, x=x, y=round(y, 1), width=_STEP - 4, height=round(height, 1), words=words)


def _cell(kind: str, place: int, row: int, share: float, words: str) -> Field:
    return Field(
        kind=kind,
        x=_LEFT + place * _STEP,
        y=_TOP + row * _ROW,
        width=_STEP - 2,
        height=_ROW - 2,
        words=words,
        strength=round(0.1 + 0.9 * share, 2),
    )


def _columns(names: Sequence[str], bottom: float) -> list[Label]:
    return [
        Label(x=_LEFT + (place + 0.5) * _STEP, y=bottom + 16, words=_short(name), steep=True)
        for place, name in enumerate(names)
    ]


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 3]}..."


def _render(
    words: tuple[str, str], fields: Sequence[Field], labels: Sequence[Label], *, height: int, columns: int
) -> str:
    from jinja2 import Environment, StrictUndefined

    text = resources.files(__package__).joinpath("drawing.svg.j2").read_text(encoding="utf-8")
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    width = max(_LEFT + columns * _STEP + 24, 640)
    return page.from_string(text).render(
        title=words[0], legend=words[1], fields=fields, labels=labels, width=width, height=height
    )
