"""C-SWAP with compensation: passes of a walk in global order, each followed by sequential least squares.

A pass measures what the layers read, orders all units by the damage that is left after compensation, walks
through them with group tests on the compensated network, and refits every layer. Passes at level α go on
while they still remove something; where a limit asks for more, the following ones let the scores fall
further, by a factor that the trajectory names. A pass after which the refitted network breaks the
guarantee, or the limit on accuracy, gives back its last interventions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from edgeprune import causal, compensate
from edgeprune.pipeline.ledger import Removed
from edgeprune.pipeline.study import NO_FIT, Study, Walked
from edgeprune.records import Finding, Pass, Step

MOST_BLOCKS = 64
LEAST_GAIN = 0.005
"""A pass at level α that removes less of the parameters than this is the last."""
MOST_PASSES = 40
FACTOR = 1.5
"""By how much each pass beyond the natural end lets the scores fall further than the one before."""
LARGEST_FACTOR = 1e4
MOST_REFITS = 5
"""In the search for how much of a pass the refitted network bears."""
LENIENCE = 2.0
"""The walk itself lets scores fall further by this factor: the least squares after it makes good for that,
and the network as refitted is held to the level itself."""
GIVEN_BACK = "given back: refitted without them, the network broke a limit"

Watch = Callable[[Step, int, int, Removed], None]
"""Step, blocks settled in this pass, blocks in this pass, units removed."""


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A refitted network: weights of the folded graph, and the units that are gone."""

    weights: dict[str, Tensor]
    fit: compensate.Refit
    removed: dict[str, tuple[int, ...]]
    worst_z: float = 0.0
    """Of any class, as refitted."""


def walk(study: Study, on_step: Watch, recorded: Sequence[Step]) -> Walked:
    """Run passes until the natural end, or as far as the limits allow."""
    run = _Passes(study, on_step, iter(recorded))
    network, stopped = run.run()
    return Walked(
        steps=run.steps,
        stopped=stopped,
        removed=network.removed,
        weights=network.weights,
        fit=network.fit,
        passes=tuple(run.passes),
    )


@dataclass(slots=True, eq=False)
class _Passes:
    study: Study
    on_step: Watch
    recorded: Iterator[Step]
    steps: list[Step] = field(default_factory=list)
    passes: list[Pass] = field(default_factory=list)
    blocks: int = 0
    """Of this pass."""

    def run(self) -> tuple[Network, str]:
        network = Network(dict(self.study.program.dense), NO_FIT, {})
        factor, options = 1.0, self.study.options
        for _ in range(MOST_PASSES):
            before = self.study.ledger.param_ratio(network.removed)
            network, reached = self._pass(network, factor)
            gain = self.study.ledger.param_ratio(network.removed) - before
            if reached:
                return network, "the limit on removed parameters was reached"
            if gain >= LEAST_GAIN and factor == 1.0:
                continue
            if not options.asks_for_more or factor > LARGEST_FACTOR:
                return network, "natural end: every unit was tested"
            if gain < LEAST_GAIN and options.max_accuracy_drop is not None and factor > FACTOR:
                return network, "the limit on the accuracy drop was reached"
            factor *= FACTOR
        return network, f"{MOST_PASSES} passes were made"

    def _pass(self, network: Network, factor: float) -> tuple[Network, bool]:
        """Walk and refit; the network then, and whether the limit on parameters ended the walk."""
        study = self.study
        measured = study.measure(network.weights)
        survivors = study.survivors(network.weights, measured, network.removed)
        blocks = study.blocks(survivors)
        self.blocks = len(blocks)
        steps, reached = causal.OrderedWalk(
            network=survivors,
            blocks=blocks,
            scores=lambda shard, changed: study.scores(shard, {**survivors.weights, **changed}),
            examiner=study.examiner(LENIENCE * factor),
            most=min(MOST_BLOCKS, study.options.group_test),
            within=study.ledger.within(study.options.max_param_ratio),
            on_step=lambda step, settled: self.on_step(step, settled, len(blocks), survivors.removed),
            recorded=self.recorded,
        ).run()
        self.steps += steps
        taken = [step for step in steps if step.removed]
        settled = self._settle(network, survivors, taken, factor) if taken else network
        self.passes.append(study.describe_pass(factor, len(steps), settled.removed, settled.worst_z))
        return settled, reached and settled.removed == survivors.removed

    def _settle(
        self, network: Network, survivors: compensate.Survivors, taken: list[Step], factor: float
    ) -> Network:
        """Refit; where that breaks a limit, search for how much of what was taken the network bears."""
        bound = factor == 1.0 or self.study.options.max_accuracy_drop is not None
        good, count, bad = 0, len(taken), len(taken) + 1
        best = network
        for _ in range(MOST_REFITS):
            if count < len(taken):
                survivors = self._without(network, survivors.measured, taken[:count])
            candidate, holds = self._refitted(survivors, factor)
            if holds or not bound:  # beyond the guarantee, where only the share of parameters counts
                good, best = count, candidate
            else:
                bad = count
            if bad - good <= 1:
                break
            count = (good + bad) // 2
        self._give_back_(taken[good:], best.removed)
        return best

    def _without(
        self, network: Network, measured: compensate.Measured, taken: Sequence[Step]
    ) -> compensate.Survivors:
        survivors = self.study.survivors(network.weights, measured, network.removed)
        for step in taken:
            survivors.remove_(step.together)
        return survivors

    def _refitted(self, survivors: compensate.Survivors, factor: float) -> tuple[Network, bool]:
        """The network after sequential least squares, and whether it keeps the guarantee and the limits."""
        study = self.study
        fit = study.refit(survivors.weights, survivors.removed)
        weights = {**survivors.weights, **fit.weights}
        outcome = study.examiner(factor).examine(lambda shard: study.scores(shard, weights))
        fine = outcome.finding is not Finding.CRITICAL and study.accepts(weights)
        network = Network(weights, fit, survivors.removed, outcome.worst_z)
        return network, fine and study.holds_elsewhere(weights, factor)

    def _give_back_(self, taken: Sequence[Step], removed: Removed) -> None:
        for step in reversed(taken):
            back = replace(step, units=(), returned=step.units, evaluated=0, note=GIVEN_BACK)
            recorded = next(self.recorded, back)
            self.steps.append(recorded)
            self.on_step(recorded, self.blocks, self.blocks, removed)
