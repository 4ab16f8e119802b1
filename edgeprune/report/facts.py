"""What a report implies: sums, sorted lists, and lists cut to a readable length with what was left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TypedDict

from edgeprune import paired
from edgeprune.records import ALL_CLASSES, Accuracy, Finding, FrozenAxis, Report, Step, Trajectory

SURE_BELOW = 0.05
MOST_ROWS = 50
"""A table of classes is cut to this many rows; 1,000 of them tell a reader nothing."""
_WALK_ROWS = 40


class Tested(TypedDict):
    """The paired test of one class."""

    lost: int | None
    gained: int | None
    p_value: float | None


ALWAYS_WRONG = Tested(lost=0, gained=0, p_value=1.0)
"""A class of which both networks get every image wrong."""
UNKNOWN = Tested(lost=None, gained=None, p_value=None)
"""Older reports do not say which images are wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupWidth:
    """One group: its units before and after, by verdict."""

    group: str
    before: int
    after: int
    critical: int
    neutral: int
    detrimental: int
    untested: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassChange:
    """Accuracy of one class, in [0, 1]; `change` is the deployed network's minus dense."""

    name: str
    dense: float
    pruned: float
    change: float
    lost: int | None = None
    """Images that dense had right and the deployed network has wrong; None in older reports."""
    gained: int | None = None
    p_value: float | None = None
    """Exact McNemar test of the class's images, adjusted for the number of classes (Holm)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassChanges:
    """The classes with images, those that lost most first."""

    shown: tuple[ClassChange, ...]
    total: int
    fell: int
    rose: int
    largest: float
    """The largest change, whatever its sign."""
    without_images: int
    same_answers: float
    """Share of the evaluation images on which both networks say the same."""
    tested: bool
    """Whether the classes could be tested: older reports do not say which images are wrong."""
    surely_changed: int
    """Classes whose adjusted p-value is below 0.05."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """About how far the mean score of one class could fall, how far it fell, and the test of that."""

    name: str
    samples: int
    tolerance: float
    fall: float
    z: float
    limit: float
    exceeded: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerances:
    """The classes of the walk's test, those nearest to their limit first."""

    shown: tuple[Tolerance, ...]
    total: int
    exceeded: int
    merged: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """The axes that may not be cut for one reason."""

    reason: str
    axes: tuple[FrozenAxis, ...]
    indices: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WalkRow:
    """One intervention, `number` counting from 1; `removed` is the units taken out so far."""

    number: int
    step: Step
    removed: int
    worst_class: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """The course of the walk: units removed out of all units, and interventions cut to a readable number."""

    rows: tuple[WalkRow, ...]
    interventions: int
    kept: int
    """Interventions after which the units were put back."""
    removed: int
    units: int


def group_widths(report: Report) -> list[GroupWidth]:
    """Return the groups in the network's order with their units by verdict."""
    return [_group_width(report, width.group, width.before, width.after) for width in report.widths]


def _group_width(report: Report, group: str, before: int, after: int) -> GroupWidth:
    found = report.findings.get(group, {})
    critical, neutral, detrimental = (found.get(finding.value, 0) for finding in Finding)
    return GroupWidth(
        group=group,
        before=before,
        after=after,
        critical=critical,
        neutral=neutral,
        detrimental=detrimental,
        untested=max(0, before - critical - neutral - detrimental),
    )


def class_changes(report: Report) -> ClassChanges:
    """Compare the classes that have images, cut to those that lost and gained most."""
    dense, pruned = report.accuracy["dense"], report.accuracy[report.deployed]
    tests = _tests(dense, pruned)
    untested = ALWAYS_WRONG if tests else UNKNOWN
    changes = [
        ClassChange(
            name=name, dense=before, pruned=after, change=after - before, **tests.get(number, untested)
        )
        for number, (name, before, after) in enumerate(
            zip(report.classes, dense.per_class, pruned.per_class, strict=True)
        )
        if before is not None and after is not None
    ]
    changes.sort(key=lambda change: change.change)
    pairs = list(zip(dense.predictions, pruned.predictions, strict=True))
    return ClassChanges(
        shown=tuple(_ends(changes)),
        total=len(changes),
        fell=sum(change.change < 0 for change in changes),
        rose=sum(change.change > 0 for change in changes),
        largest=max((abs(change.change) for change in changes), default=0.0),
        without_images=len(report.classes) - len(changes),
        same_answers=sum(a == b for a, b in pairs) / max(len(pairs), 1),
        tested=bool(tests),
        surely_changed=sum(change.p_value is not None and change.p_value < SURE_BELOW for change in changes),
    )


def _tests(dense: Accuracy, pruned: Accuracy) -> dict[int, Tested]:
    """The paired test of each class; nothing where the report does not say which images are wrong."""
    found = paired.class_changes(dense, pruned) or {}
    adjusted = paired.holm([paired.two_sided_p(change) for change in found.values()])
    return {
        number: Tested(lost=change.lost, gained=change.gained, p_value=p)
        for (number, change), p in zip(found.items(), adjusted, strict=True)
    }


def _ends(changes: Sequence[ClassChange]) -> Sequence[ClassChange]:
    if len(changes) <= MOST_ROWS:
        return changes
    half = MOST_ROWS // 2
    return [*changes[:half], *changes[-half:]]


def tolerances(report: Report) -> Tolerances:
    """Compare each tested class's z with its limit, cut to those nearest to it."""
    walk = report.trajectory
    columns = zip(
        walk.class_names,
        walk.class_samples,
        walk.tolerance,
        walk.dense_scores,
        walk.final_scores,
        walk.final_z,
        walk.z_limits,
        strict=True,
    )
    rows = [
        Tolerance(
            name=name,
            samples=samples,
            tolerance=delta,
            fall=dense - final,
            z=z,
            limit=limit,
            exceeded=z < limit,
        )
        for name, samples, delta, dense, final, z, limit in columns
    ]
    rows.sort(key=lambda row: row.z - row.limit)
    known = {*report.classes, ALL_CLASSES}
    return Tolerances(
        shown=tuple(rows[:MOST_ROWS]),
        total=len(rows),
        exceeded=sum(row.exceeded for row in rows),
        merged=tuple(name for name in walk.class_names if name not in known),
    )


def frozen(report: Report) -> list[Frozen]:
    """Gather the frozen axes by reason, the reason that freezes most first."""
    reasons: dict[str, list[FrozenAxis]] = {}
    for axis in report.frozen:
        reasons.setdefault(axis.reason, []).append(axis)
    gathered = [
        Frozen(reason=reason, axes=tuple(axes), indices=sum(axis.indices for axis in axes))
        for reason, axes in reasons.items()
    ]
    return sorted(gathered, key=lambda entry: -entry.indices)


def walk(report: Report) -> Walk:
    """Sum up the walk; surgery may give back some of the units that it removed."""
    steps = report.trajectory.steps
    removed = removed_so_far(report.trajectory)
    return Walk(
        rows=tuple(_walk_rows(report.trajectory, removed)),
        interventions=len(steps),
        kept=sum(not step.removed for step in steps),
        removed=removed[-1] if removed else 0,
        units=sum(width.before for width in report.widths),
    )


def removed_so_far(trajectory: Trajectory) -> list[int]:
    """Return the units removed after each intervention; those given back count no more."""
    return list(accumulate(step.gain for step in trajectory.steps))


def thin(count: int, limit: int) -> list[int]:
    """Return at most `limit` of the indices below `count`, evenly spread, the first and last among them."""
    if count <= limit:
        return list(range(count))
    return [round(i * (count - 1) / (limit - 1)) for i in range(limit)]


def _walk_rows(trajectory: Trajectory, removed: Sequence[int]) -> list[WalkRow]:
    names = dict(enumerate(trajectory.class_names))
    steps = trajectory.steps
    return [
        WalkRow(
            number=i + 1, step=steps[i], removed=removed[i], worst_class=names.get(steps[i].worst_class, "")
        )
        for i in thin(len(steps), _WALK_ROWS)
    ]
