"""Rounds that make a network cheaper: measure damages, choose units by a budget, remove, refit, again.

Damages of single removals do not add up over a whole network, nor do savings, so a goal is reached in rounds:
each measures what is left anew and takes a share of the way, the units with the least damage for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from edgeprune import compensate, knapsack
from edgeprune.pipeline.ledger import Removed, without
from edgeprune.pipeline.study import NO_FIT, Study
from edgeprune.records import Pass, Step

Costs = Callable[[Sequence[Mapping[str, int]]], Mapping[str, NDArray[np.float64]]]
"""Widths of all groups -> resource -> what the network then takes of it, over what the dense one takes."""
Goals = Mapping[str, float]
"""Resource -> the largest share of the dense network's."""
ROUND = 0.88
"""A round leaves about this share of the costs."""
MOST_ROUNDS = 10
MOST_TRIES = 8
"""In a round, until what the units save together is what was asked for."""
CLOSE = 0.004
"""Of the dense network's costs: this near to a goal is there."""


@dataclass(eq=False)
class Point:
    """A refitted network, and what it costs."""

    study: Study
    weights: dict[str, Tensor]
    fit: compensate.Refit
    removed: Removed
    costs: Mapping[str, float]
    worst_z: float = 0.0

    @property
    def widths(self) -> dict[str, int]:
        return {g.name: g.units - len(self.removed.get(g.name, ())) for g in self.study.groups}

    @cached_property
    def survivors(self) -> compensate.Survivors:
        """With moments of this network; not to be changed."""
        measured = self.study.measure(self.weights)
        return self.study.survivors(self.weights, measured, self.removed)

    @cached_property
    def blocks(self) -> dict[str, list[compensate.Block]]:
        """Group -> its units in the order in which they can best be spared."""
        ladders = self.study.ladders(self.survivors)
        return {name: blocks for name, blocks in ladders.items() if blocks}


@dataclass(eq=False)
class Descent:
    """Makes networks cheaper, and keeps the log of it.

    Attributes:
        study: The network and images.
        costs: What widths cost.
        on_step: Sees every step, and the units gone after it.
    """

    study: Study
    costs: Costs
    on_step: Callable[[Step, Removed], None]
    steps: list[Step] = field(default_factory=list)
    passes: list[Pass] = field(default_factory=list)

    def start(self) -> Point:
        """The dense network."""
        return self._point(dict(self.study.program.dense), NO_FIT, {})

    def resumed(self, removed: Removed) -> Point:
        """The network without some units, refitted at once."""
        if not any(removed.values()):
            return self.start()
        return self._point(*self.study.compensated(removed), removed)

    def toward(self, point: Point, goals: Goals) -> Point | None:
        """The network at these goals, or as near as whole steps of widths come; None: no unit is left.

        Goals that the network meets already do not matter.
        """
        reached = point
        for left in range(self._rounds(point, goals), 0, -1):
            found = self._round(reached, _on_the_way(reached.costs, goals, left))
            if found is None:
                break
            reached = found
        return None if reached is point else reached

    def back_(self, point: Point, to: Point) -> None:
        """Log that the units between two networks were given back."""
        if returned := without(point.removed, to.removed):
            (first, units), *others = returned.items()
            step = replace(self.steps[-1], group=first, units=(), joint=dict(others), returned=units)
            self._log_(replace(step, evaluated=0, note="given back: another width is better"), to.removed)

    def _rounds(self, point: Point, goals: Goals) -> int:
        shares = [goal / point.costs[name] for name, goal in goals.items() if goal < point.costs[name]]
        return min(MOST_ROUNDS, max((math.ceil(math.log(max(s, 1e-3), ROUND)) for s in shares), default=0))

    def _round(self, point: Point, goals: Goals) -> Point | None:
        chosen = self.choose(point, goals)
        if not chosen:
            return None
        study = self.study
        survivors = study.survivors(point.weights, point.survivors.measured, point.removed)
        survivors.remove_(chosen)
        fit = study.refit(survivors.weights, survivors.removed)
        found = self._point({**survivors.weights, **fit.weights}, fit, survivors.removed)
        outcome = study.examiner().examine(lambda shard: study.scores(shard, found.weights))
        found.worst_z = outcome.worst_z
        costs = ", ".join(f"{name} {found.costs[name]:.3f}" for name in goals)
        note = f"a round for a budget; of the dense network then: {costs}"
        step = replace(outcome.step(chosen), removed=True, note=note)
        self._log_(step, found.removed)
        self.passes.append(study.describe_pass(1.0, 1, found.removed, found.worst_z))
        return found

    def choose(self, point: Point, goals: Goals) -> dict[str, tuple[int, ...]]:
        """The units with the least damage whose leaving meets the goals; all that may go where none do.

        Chosen twice: what the first choice would do to the answers, group by group, says what damages weigh.
        """
        ladders = self._ladders(point, goals)
        rungs = self._rungs(point, goals, ladders)
        weights = self.study.effects(point.survivors, point.blocks, rungs) if rungs else {}
        if any(rungs.get(ladder.group, 0) < len(ladder.damages) for ladder in ladders):
            rungs = self._rungs(point, goals, [_weighted(each, weights) for each in ladders])
        return {
            name: tuple(unit for block in point.blocks[name][:rung] for unit in block.units)
            for name, rung in rungs.items()
        }

    def _rungs(self, point: Point, goals: Goals, ladders: Sequence[knapsack.Ladder]) -> dict[str, int]:
        """Group -> how many of its blocks leave."""
        needs = {name: point.costs[name] - goal for name, goal in goals.items()}
        asked = {name: need for name, need in needs.items() if need > 0}
        best: dict[str, int] = {}
        for _ in range(MOST_TRIES if asked else 0):
            rungs = knapsack.choose(ladders, asked)
            if rungs is None:
                rungs = best or {ladder.group: len(ladder.damages) for ladder in ladders}
            saved = self._saved(point, rungs)
            best = rungs
            short = {name: needs[name] / max(saved[name], 1e-9) for name in asked}
            if rungs == {} or all(saved[name] >= needs[name] - CLOSE for name in asked):
                break
            wanted = {name: asked[name] * max(1.0, short[name]) for name in asked}
            if wanted == asked:
                break
            asked = wanted
        return best

    def _ladders(self, point: Point, goals: Goals) -> list[knapsack.Ladder]:
        widths, rows, places = point.widths, [], []
        for name, blocks in point.blocks.items():
            left = widths[name]
            for block in blocks:
                left -= len(block.units)
                rows.append({**widths, name: left})
                places.append(name)
        costs = self.costs(rows) if rows else {}
        ladders = []
        for name, blocks in point.blocks.items():
            mine = [row for row, place in enumerate(places) if place == name]
            damages = np.cumsum([block.damage for block in blocks])
            savings = {
                goal: tuple(float(point.costs[goal] - costs[goal][row]) for row in mine) for goal in goals
            }
            ladders.append(
                knapsack.Ladder(group=name, damages=tuple(float(d) for d in damages), savings=savings)
            )
        return ladders

    def _saved(self, point: Point, rungs: Mapping[str, int]) -> dict[str, float]:
        widths = point.widths
        for name, rung in rungs.items():
            widths[name] -= sum(len(block.units) for block in point.blocks[name][:rung])
        return {name: point.costs[name] - float(cost[0]) for name, cost in self.costs([widths]).items()}

    def _point(self, weights: dict[str, Tensor], fit: compensate.Refit, removed: Removed) -> Point:
        point = Point(self.study, weights, fit, removed, {})
        point.costs = {name: float(cost[0]) for name, cost in self.costs([point.widths]).items()}
        return point

    def _log_(self, step: Step, removed: Removed) -> None:
        self.steps.append(step)
        self.on_step(step, removed)


def _weighted(ladder: knapsack.Ladder, weights: Mapping[str, float]) -> knapsack.Ladder:
    weight = weights.get(ladder.group, 1.0)
    return replace(ladder, damages=tuple(weight * damage for damage in ladder.damages))


def _on_the_way(costs: Mapping[str, float], goals: Goals, rounds: int) -> dict[str, float]:
    """Goals of the first of so many rounds, each of which takes the same share of what is left."""
    return {
        name: costs[name] * (goal / costs[name]) ** (1 / rounds) if goal < costs[name] else goal
        for name, goal in goals.items()
    }
