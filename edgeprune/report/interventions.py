"""What the interventions of a walk tell about layers, units and classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from edgeprune.records import Finding, Report, Step
from edgeprune.report.facts import GroupWidth, group_widths

MOST_CLASSES = 24
"""The drawing of vetoes shows this many classes, those with most vetoes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitRow:
    """The test that settled one unit: its own, or else the smallest set in which it was tested last."""

    number: int
    """Of the intervention, from 1."""
    group: str
    unit: int
    finding: Finding
    removed: bool
    effect: float
    worst_z: float
    worst_class: str
    together: int
    """Units taken out in the same test, this one included."""
    groups: int
    """Groups that these are of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vetoes:
    """How many units of each group had to stay because of each class."""

    groups: tuple[str, ...]
    classes: tuple[str, ...]
    """Those with most vetoes first."""
    counts: tuple[tuple[int, ...], ...]
    """Shape (classes, groups)."""
    units: int
    """Units in all that a class vetoed."""

    @property
    def largest(self) -> int:
        return max((count for row in self.counts for count in row), default=0)

    def of(self, group: str) -> list[tuple[str, int]]:
        """Class and count of one group, the largest first."""
        column = self.groups.index(group)
        found = [(name, row[column]) for name, row in zip(self.classes, self.counts, strict=True)]
        return sorted(((name, count) for name, count in found if count), key=lambda pair: -pair[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One group: its units by verdict, and which classes kept them."""

    width: GroupWidth
    resistance: float
    """Share of the units that stay because of some class or were never reached, in [0, 1]."""
    classes: tuple[tuple[str, int], ...]
    """Each with the units that it vetoed, most first."""


def units(report: Report) -> list[UnitRow]:
    """Every unit that was tested, in the order of the groups; detrimental ones come first in each."""
    names = dict(enumerate(report.trajectory.class_names))
    settled: dict[tuple[str, int], UnitRow] = {}
    for number, step in enumerate(report.trajectory.steps, start=1):
        taken = step.together
        together = sum(map(len, taken.values()))
        for group, unit in _given_back(step):
            if (group, unit) in settled:
                settled[group, unit] = _stays(settled[group, unit])
        if step.returned:
            continue
        for group, members in taken.items():
            for unit in members:
                before = settled.get((group, unit))
                if before is None or step.removed or together <= before.together or before.removed:
                    settled[group, unit] = UnitRow(
                        number=number,
                        group=group,
                        unit=unit,
                        finding=step.finding,
                        removed=step.removed,
                        effect=step.effect,
                        worst_z=step.worst_z,
                        worst_class=names.get(step.worst_class, ""),
                        together=together,
                        groups=len(taken),
                    )
    order = {width.group: place for place, width in enumerate(report.widths)}
    return sorted(
        settled.values(),
        key=lambda row: (row.finding is not Finding.DETRIMENTAL, order.get(row.group, -1), row.unit),
    )


def _given_back(step: Step) -> Iterator[tuple[str, int]]:
    if step.returned:
        for group, members in step.together.items():
            yield from ((group, unit) for unit in members)


def _stays(row: UnitRow) -> UnitRow:
    return replace(row, removed=False)


def vetoes(report: Report, rows: Sequence[UnitRow] | None = None) -> Vetoes:
    """Count the units that a class vetoed when no other group's units were taken out with them."""
    found = Counter(
        (row.worst_class, row.group)
        for row in (units(report) if rows is None else rows)
        if row.finding is Finding.CRITICAL and row.groups == 1
    )
    totals: Counter[str] = Counter()
    for (name, _), count in found.items():
        totals[name] += count
    groups = tuple(width.group for width in report.widths)
    classes = tuple(name for name, _ in totals.most_common())
    return Vetoes(
        groups=groups,
        classes=classes,
        counts=tuple(tuple(found[name, group] for group in groups) for name in classes),
        units=sum(found.values()),
    )


def layers(report: Report, counted: Vetoes | None = None) -> list[Layer]:
    """The groups, those that resist most first."""
    counted = counted or vetoes(report)
    found = []
    for width in group_widths(report):
        stays = (width.critical + width.untested) / max(width.before, 1)
        classes = tuple(counted.of(width.group))
        found.append(Layer(width=width, resistance=stays, classes=classes))
    return sorted(found, key=lambda layer: -layer.resistance)
