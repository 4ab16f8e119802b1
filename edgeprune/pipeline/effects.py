"""What removals do to the network's answers, measured: damages of different layers made comparable.

A damage is a share of what one layer's output varies by, on calibration images. How much of it the answers
feel differs between layers by orders of magnitude, and few images make it look far smaller than it is where
layers are wide. So each group loses some units alone, compensated, and images that no fit has seen tell how
far the answers move. Our own; what it is worth is in docs/method.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from torch import Tensor

from edgeprune import compensate
from edgeprune.compensate import Block

Move = Callable[[Mapping[str, Tensor]], float]
PROBE = 0.08
"""Share of a group's blocks that leave where nothing says how many."""
LEAST = 1e-3
"""Of the median effect: what a group has at least, however little is seen of it."""


def effects(
    survivors: compensate.Survivors,
    blocks: Mapping[str, Sequence[Block]],
    taken: Mapping[str, int],
    move: Move,
    on_progress: Callable[[int, int], None],
) -> dict[str, float]:
    """Group -> how far the answers move for a unit of its damage, over the median of all groups.

    Args:
        survivors: The current network.
        blocks: Group -> its units in the order in which they leave.
        taken: Group -> how many of its blocks are to leave; `PROBE` of them where none are.
        move: Tells how far weights move the answers.
        on_progress: Called with groups done and all groups.
    """
    found: dict[str, float] = {}
    for done, (name, ladder) in enumerate(blocks.items(), start=1):
        count = taken.get(name) or max(1, round(PROBE * len(ladder)))
        found |= _effect(survivors, ladder[:count], move)
        on_progress(done, len(blocks))
    if not found:
        return {}
    median = float(np.median(list(found.values())))
    return {name: max(effect / median, LEAST) for name, effect in found.items()} if median > 0 else {}


def _effect(survivors: compensate.Survivors, leaving: Sequence[Block], move: Move) -> dict[str, float]:
    """Nothing where no damage is known, or none is done."""
    damage = sum(block.damage for block in leaving)
    if not leaving or not 0 < damage < math.inf:
        return {}
    units = tuple(unit for block in leaving for unit in block.units)
    changed = survivors.without({leaving[0].group: units})
    return {leaving[0].group: move({**survivors.weights, **changed}) / damage}
