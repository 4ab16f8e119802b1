"""Which classes need a unit: one intervention for each, all classes looked at, nothing removed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edgeprune.causal.evaluation import Examiner, Shard
from edgeprune.causal.verdict import Judge
from edgeprune.records import Doubles, GroupEffects, UnitEffect

Scores = Callable[[Shard, str, int], Doubles]
"""Scores σ* of one shard's images with one unit of a group taken out."""


def explain(
    group: str,
    units: Sequence[int],
    scores: Scores,
    examiner: Examiner,
    *,
    on_done: Callable[[int], None] = lambda done: None,
) -> GroupEffects:
    """The effect of each unit on each class of the test.

    Args:
        group: Name of the group.
        units: Which of its units.
        scores: Runs an intervention.
        examiner: Its judge and its shards; it does not exit early here.
        on_done: Called with the number of interventions made.
    """
    judge, found = examiner.judge, []
    for number, unit in enumerate(units, start=1):
        changed = np.concatenate([scores(shard, group, unit) for shard in examiner.shards])
        found.append(_effect(unit, changed, judge))
        on_done(number)
    return GroupEffects(
        group=group,
        class_names=tuple(name for name, _ in judge.members),
        z_limits=tuple((-judge.quantiles).tolist()),
        units=tuple(found),
    )


def _effect(unit: int, changed: Doubles, judge: Judge) -> UnitEffect:
    z = [judge.z(number, changed[test.places]) for number, test in enumerate(judge.classes)]
    if judge.pooled:
        z.append(judge.pooled_z(changed))
    return UnitEffect(
        unit=unit,
        finding=judge.finding(np.array(z)),
        effect=judge.effect(np.arange(len(changed)), changed),
        effects=tuple(judge.effect(places, changed[places]) for _, places in judge.members),
        z=tuple(z),
    )
