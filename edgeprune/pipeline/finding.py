"""Which network a budget asks for: the most accurate one within it, or the fastest that is accurate enough.

The costs that rounds go by are predictions. What they come to is measured on the deployed file, and the goal
is moved by what the prediction was wrong, until the measurement confirms it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from edgeprune.pipeline.descent import Descent, Point
from edgeprune.pipeline.ledger import Removed
from edgeprune.pipeline.study import Study, Walked
from edgeprune.pipeline.trajectory import by_group, taken
from edgeprune.records import Interval, Step

MOST_TRIALS = 6
SLACK = 0.01
"""Of what a budget asks to be saved: what is aimed at beyond it."""
CLOSE_ENOUGH = 0.03
"""Of the dense network: a network this far within a budget is taken, without a search for a dearer one."""
FIRST_STEP, LEAST_STEP = 0.10, 0.02
"""Share of the latency that a stride towards the fastest network takes, at first and at last."""
MOST_STRIDES = 40

Confirm = Callable[[Point], Mapping[str, Interval]]
"""Deploys and measures a network: resource -> its share of what the dense network takes, with an interval."""


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """A network that was deployed and measured."""

    point: Point
    measured: Mapping[str, Interval]
    fits: bool
    accuracy: float
    """On the validation images."""

    def over(self, limits: Mapping[str, float]) -> float:
        """How far the worst figure is above its limit, as a factor."""
        return max(self.measured[name].value / limit for name, limit in limits.items())


@dataclass(eq=False)
class Search:
    """One search under way.

    Attributes:
        study: The network and images.
        descent: Makes networks cheaper.
        confirm: Measures them.
    """

    study: Study
    descent: Descent
    confirm: Confirm
    trials: list[Trial] = field(default_factory=list)

    def within(self, start: Point, limits: Mapping[str, float]) -> tuple[Point, str]:
        """The most accurate network whose measurement is within the limits, or the one nearest to them.

        Args:
            start: Where to begin: the dense network, or what an interrupted search had come to.
            limits: Resource -> largest share of the dense network's.
        """
        efficiency = dict.fromkeys(limits, 1.0)
        point, above = start, start
        for _ in range(MOST_TRIALS):
            goals = {name: aimed(limit, efficiency[name]) for name, limit in limits.items()}
            found = self.descent.toward(above, goals)
            if found is None:
                break
            point = found
            trial = self.try_(point, limits)
            if trial.fits and all(
                trial.measured[n].high > limit - CLOSE_ENOUGH for n, limit in limits.items()
            ):
                break
            moved = moved_efficiency(trial, efficiency, limits)
            if not trial.fits:
                above = point
            elif moved == efficiency or not self._dearer(trial, above, limits):
                break
            else:
                self.descent.back_(point, above)
            efficiency = moved
        return self._best(start, point, limits)

    def _dearer(self, trial: Trial, above: Point, limits: Mapping[str, float]) -> bool:
        """Whether a network between this one and the last one above the limits is worth a look."""
        return above is not trial.point and all(
            trial.measured[name].high < limit - CLOSE_ENOUGH for name, limit in limits.items()
        )

    def _best(self, start: Point, last: Point, limits: Mapping[str, float]) -> tuple[Point, str]:
        fitting = [trial for trial in self.trials if trial.fits]
        if fitting:
            best = max(fitting, key=lambda trial: (trial.accuracy, trial.over(limits)))
            why = "the budgets are met, as measured"
        elif self.trials:
            best = min(self.trials, key=lambda trial: trial.over(limits))
            why = "the budgets are out of reach: this is the nearest that was measured"
        else:
            return start, "the budgets are out of reach: no unit can be taken"
        self.descent.back_(last, best.point)
        return best.point, why

    def try_(self, point: Point, limits: Mapping[str, float]) -> Trial:
        measured = self.confirm(point)
        fits = all(measured[name].high <= limit for name, limit in limits.items())
        trial = Trial(point, measured, fits, self.study.validation_accuracy(point.weights))
        self.trials.append(trial)
        return trial

    def fastest(self, start: Point) -> tuple[Point, str]:
        """The fastest network that keeps the limit on accuracy: strides, halved where one goes too far."""
        good, stride = start, FIRST_STEP
        why = "no unit is left to take"
        for _ in range(MOST_STRIDES):
            found = self.descent.toward(good, {"latency": good.costs["latency"] * (1 - stride)})
            if found is None:
                break
            if found.costs["latency"] < good.costs["latency"] and self.study.accepts(found.weights):
                good = found
                continue
            self.descent.back_(found, good)
            stride /= 2
            why = "the limit on the accuracy drop was reached"
            if stride < LEAST_STEP:
                break
        return good, why


def aimed(limit: float, efficiency: float) -> float:
    """The share to aim at for a limit: a little below it, and by what savings came to in measurements."""
    return max(0.02, 1 - (1 - limit) * (1 + SLACK) / efficiency)


def moved_efficiency(
    trial: Trial, efficiency: Mapping[str, float], limits: Mapping[str, float]
) -> dict[str, float]:
    """What was saved over what was predicted to be; the upper end of the measurement counts."""
    moved = dict(efficiency)
    for name in limits:
        predicted = 1 - trial.point.costs[name]
        if predicted > 0:
            moved[name] = min(2.0, max(0.1, (1 - trial.measured[name].high) / predicted))
    return moved


def result(study: Study, descent: Descent, point: Point, why: str) -> Walked:
    """A search's end as other methods give theirs."""
    return Walked(
        steps=descent.steps,
        stopped=why,
        removed={name: tuple(units) for name, units in point.removed.items()},
        weights=point.weights,
        fit=point.fit,
        passes=tuple(descent.passes),
    )


def net_removal(steps: Sequence[Step]) -> Removed:
    """The units that are gone after some steps of a search."""
    return {name: tuple(sorted(units)) for name, units in by_group(taken(steps)).items()}
