"""A walk read backwards: the units it removed, in order, and how many of them stay within a share."""

from __future__ import annotations

from collections.abc import Sequence

from edgeprune.pipeline.study import Study
from edgeprune.records import Step

Order = list[tuple[str, int]]
"""Units with the names of their groups."""


def taken(steps: Sequence[Step]) -> Order:
    """The units that a walk removed, in order, without those that it gave back.

    Units of several groups that left together take turns, each group in proportion to how much it gives.
    """
    order: Order = []
    for step in steps:
        if step.returned:
            back = {(group, unit) for group, units in step.together.items() for unit in units}
            order = [found for found in order if found not in back]
        elif step.removed:
            turns = [
                ((place + 0.5) / len(units), group, unit)
                for group, units in step.together.items()
                for place, unit in enumerate(units)
            ]
            order += [(group, unit) for _, group, unit in sorted(turns, key=lambda turn: turn[0])]
    return order


def within(study: Study, order: Sequence[tuple[str, int]], ratio: float) -> dict[str, tuple[int, ...]]:
    """The units of the longest prefix, in whole steps of widths, within a share of the parameters."""

    def first(count: int) -> dict[str, tuple[int, ...]]:
        return whole_steps(study, order[:count])

    return first(study.ledger.most(len(order), first, ratio))


def by_group(order: Sequence[tuple[str, int]]) -> dict[str, list[int]]:
    """Group -> its units, in their order."""
    found: dict[str, list[int]] = {}
    for name, unit in order:
        found.setdefault(name, []).append(unit)
    return found


def whole_steps(study: Study, order: Sequence[tuple[str, int]]) -> dict[str, tuple[int, ...]]:
    """Group -> units, without those last in a group that would leave a width between two steps."""
    found, removed = by_group(order), {}
    for group in study.groups:
        units, step = found.get(group.name, []), study.step(group)
        kept = -(-(group.units - len(units)) // step) * step
        removed[group.name] = tuple(sorted(units[: max(0, group.units - kept)]))
    return {name: units for name, units in removed.items() if units}
