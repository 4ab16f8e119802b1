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

Move = Callable[[Sequence[Mapping[str, Tensor]]], Sequence[float]]
AT_ONCE = 16
"""Groups that are measured together: what comes before them in the network runs once."""
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
        move: Tells how far changes of the network's weights, each alone, move the answers.
        on_progress: Called with groups done and all groups.
    """
    leaving: dict[str, Sequence[Block]] = {}
    for name, ladder in blocks.items():
        some = ladder[: taken.get(name) or max(1, round(PROBE * len(ladder)))]
        if 0 < sum(block.damage for block in some) < math.inf:  # else none is known, or none is done
            leaving[name] = some
    found: dict[str, float] = {}
    for first in range(0, len(leaving), AT_ONCE):
        names = list(leaving)[first : first + AT_ONCE]
        changes = [survivors.without({name: _units(leaving[name])}) for name in names]
        for name, moved in zip(names, move(changes), strict=True):
            found[name] = moved / sum(block.damage for block in leaving[name])
        on_progress(len(found), len(leaving))
    if not found:
        return {}
    median = float(np.median(list(found.values())))
    return {name: max(effect / median, LEAST) for name, effect in found.items()} if median > 0 else {}


def _units(blocks: Sequence[Block]) -> tuple[int, ...]:
    return tuple(unit for block in blocks for unit in block.units)
