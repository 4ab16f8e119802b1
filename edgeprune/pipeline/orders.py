"""In which order units leave: by damage up to the natural end, by competition beyond it.

No order is best for every network and at every share (docs/method.md): damages of single units do not add up,
and least squares after a pass make good for more in some layers than in others. So beyond the natural end
several orders each give a network without the share that a pass takes, compensated and roughly fitted, and
the one whose answers on images that no fit has seen come nearest to the dense network's is kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from edgeprune import causal, compensate
from edgeprune.compensate import Block
from edgeprune.pipeline.ledger import Removed
from edgeprune.pipeline.options import Counted
from edgeprune.pipeline.sharing import agreed
from edgeprune.pipeline.study import Study, Weights
from edgeprune.records import ChannelGroup

COMPETING: Mapping[str, tuple[Counted, float]] = {
    "damage for each parameter": ("params", 1.0),
    "damage for the root of the parameters": ("params", 0.5),
    "damage for each unit": ("units", 1.0),
}
"""Name -> what a unit's damage is divided by, and to which power."""
NAMES: Mapping[Counted, str] = {
    "units": "damage for each unit",
    "params": "damage for each parameter",
    "macs": "damage for each multiply-add",
    "both": "damage for parameters and multiply-adds",
}
LAMP = "layer-adaptive magnitude"


def natural(study: Study, survivors: compensate.Survivors) -> list[Block]:
    """All units that may leave, in the order of what they do to the answers for what they save."""
    ladders = study.ladders(survivors)
    paid = prices(study, survivors.removed, study.options.counted or "units")
    return _agreed(study, "", compensate.in_order(ladders, paid, study.effects(survivors, ladders, {})))[1]


def beyond(study: Study, survivors: compensate.Survivors, stride: float) -> tuple[str, list[Block]]:
    """The first units of the order that answers best, and its name; of the one that the options name.

    Args:
        study: The network and images.
        survivors: The current network.
        stride: Share of its parameters that the units leave.
    """
    orders, counted = Orders(study, survivors, stride), study.options.counted
    if counted is not None:
        return _agreed(study, NAMES[counted], orders.by_damage(counted))
    candidates = {name: orders.by_damage(*how) for name, how in COMPETING.items()}
    candidates[LAMP] = orders.by_magnitude()
    move, on_progress = study.mover(study.program.dense), study.progress("orders")
    moved: dict[str, float] = {}
    for name, blocks in candidates.items():
        (moved[name],) = move([orders.fitted(blocks)])
        on_progress(len(moved), len(candidates))
    name = min(moved, key=lambda each: moved[each])
    return _agreed(study, name, candidates[name])


@dataclass(frozen=True, eq=False)
class Orders:
    """What one pass may take: units in some order, until no more than a share of the parameters is left."""

    study: Study
    survivors: compensate.Survivors
    stride: float

    @cached_property
    def ladders(self) -> dict[str, list[Block]]:
        """Group -> its units in the order in which they can best be spared."""
        return self.study.ladders(self.survivors)

    def by_damage(self, counted: Counted, power: float = 1.0) -> list[Block]:
        """Chosen twice, as by `descent`: what the first choice takes of a group says what damages weigh."""
        paid = prices(self.study, self.survivors.removed, counted)
        if paid is not None:
            paid = {name: price**power for name, price in paid.items()}
        taken = Counter(block.group for block in self._first(compensate.in_order(self.ladders, paid)))
        weights = self.study.effects(self.survivors, self.ladders, taken)
        return self._first(compensate.in_order(self.ladders, paid, weights))

    def by_magnitude(self) -> list[Block]:
        """By the square of a unit's weights over that of all units of its group that leave no earlier.

        Lee et al. 2021, Layer-Adaptive Sparsity for the Magnitude-Based Pruning, eq. 3, for units in place of
        single weights: a group's last units count most, whatever its scale, so no layer empties alone.
        Blocks are of the sizes of the ladders', whose damages they keep: nobody asks for them.
        """
        ranked: list[tuple[float, int, Block]] = []
        for number, group in enumerate(self.study.groups):
            ladder, squares = self.ladders[group.name], squared(group, self.survivors.weights)
            gone = set(self.survivors.removed.get(group.name, ()))
            units = sorted(set(range(group.units)) - gone, key=lambda unit: squares[unit])
            left, first, most = float(squares[units].sum()), 0, 0.0
            for block in ladder:
                mine = units[first : first + len(block.units)]
                first += len(mine)
                share = float(squares[mine].sum())
                most = max(most, share / left if left > 0 else 0.0)
                left -= share
                ranked.append((most, number, Block(group=group.name, units=tuple(mine), damage=block.damage)))
        return self._first([block for *_, block in sorted(ranked, key=lambda item: item[:2])])

    def fitted(self, blocks: Sequence[Block]) -> Weights:
        """Weights without the blocks, as far as the limit on parameters allows, fitted roughly."""
        study, gone, limit = self.study, self.survivors.removed, self.study.options.max_param_ratio
        if limit is not None:
            blocks = blocks[: self._count(blocks, limit)]
        trial = study.survivors(self.survivors.weights, self.survivors.measured, gone)
        trial.remove_(causal.joined({}, blocks))
        return {**trial.weights, **study.refit(trial.weights, trial.removed, rough=True).weights}

    def _first(self, blocks: Sequence[Block]) -> list[Block]:
        most = 1 - self.stride * (1 - self.study.ledger.param_ratio(self.survivors.removed))
        return list(blocks[: self._count(blocks, most) + 1])

    def _count(self, blocks: Sequence[Block], limit: float) -> int:
        gone = self.survivors.removed
        return self.study.ledger.most(len(blocks), lambda count: causal.joined(gone, blocks[:count]), limit)


def prices(study: Study, removed: Removed, counted: Counted) -> dict[str, float] | None:
    """Group -> what one unit less of it saves; None: every unit the same."""
    if counted == "units":
        return None
    now = study.ledger.ratios(removed)
    found = {}
    for group in study.groups:
        gone = removed.get(group.name, ())
        unit = next((u for u in range(group.units) if u not in gone), 0)
        after = study.ledger.ratios({**removed, group.name: (*gone, unit)})
        saved = [b - a for a, b in zip(now, after, strict=True)]
        found[group.name] = {"params": saved[0], "macs": saved[1]}.get(counted, sum(saved))
    return found


def squared(group: ChannelGroup, weights: Weights) -> NDArray[np.float64]:
    """Sum of the squares of the weights that make or read each unit, shape (units,)."""
    total = np.zeros(group.units)
    for slot in group.slots:
        weight = weights.get(slot.parameter)
        if weight is not None and weight.ndim > 1:
            rows = weight.double().movedim(slot.axis, 0).flatten(1).square().sum(dim=1).cpu().numpy()
            total += rows[slot.indices].reshape(group.units, -1).mean(axis=1)
    return total


def _agreed(study: Study, name: str, blocks: Sequence[Block]) -> tuple[str, list[Block]]:
    """What the first of several processes came to."""
    told = (name, [(block.group, block.units, block.damage) for block in blocks])
    name, found = agreed(study.journey.crew, told)
    return name, [Block(group=group, units=tuple(units), damage=damage) for group, units, damage in found]
