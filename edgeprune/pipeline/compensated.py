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
        study, examiner = self.study, self.study.examiner(factor)
        scout = study.examiner(LENIENCE * factor)
        measured = study.measure(network.weights)
        survivors = study.survivors(network.weights, measured, network.removed)
        blocks = survivors.blocks(
            {g.name: study.step(g) for g in study.groups}, study.prices(network.removed)
        )
        steps, reached = causal.OrderedWalk(
            network=survivors,
            blocks=blocks,
            scores=lambda shard, changed: study.scores(shard, {**survivors.weights, **changed}),
            examiner=scout,
            most=min(MOST_BLOCKS, study.options.group_test),
            within=study.ledger.within(study.options.max_param_ratio),
            on_step=lambda step, settled: self.on_step(step, settled, len(blocks), survivors.removed),
            recorded=self.recorded,
        ).run()
        self.steps += steps
        taken = [step for step in steps if step.removed]
        if not taken:
            settled = network
        elif factor > 1 and study.options.max_accuracy_drop is None:
            settled = self._without(network, measured, taken)  # beyond the guarantee: only the ratio counts
        else:
            settled = self._settle(network, measured, taken, factor)
        outcome = examiner.examine(lambda shard: study.scores(shard, settled.weights))
        self.passes.append(study.describe_pass(factor, len(steps), settled.removed, outcome.worst_z))
        return settled, reached and settled.removed == survivors.removed

    def _settle(
        self, network: Network, measured: compensate.Measured, taken: list[Step], factor: float
    ) -> Network:
        """Refit; where that breaks a limit, search for how much of what was taken the network bears."""
        examiner = self.study.examiner(factor)
        good, count, bad = 0, len(taken), len(taken) + 1
        best = network
        for _ in range(MOST_REFITS):
            candidate = self._without(network, measured, taken[:count])
            if self._holds(candidate, examiner, factor):
                good, best = count, candidate
            else:
                bad = count
            if bad - good <= 1:
                break
            count = (good + bad) // 2
        self._give_back_(taken[good:])
        return best

    def _without(self, network: Network, measured: compensate.Measured, taken: Sequence[Step]) -> Network:
        survivors = self.study.survivors(network.weights, measured, network.removed)
        for step in taken:
            survivors.remove_(step.together)
        fit = self.study.refit(survivors.weights, survivors.removed)
        return Network({**survivors.weights, **fit.weights}, fit, survivors.removed)

    def _holds(self, network: Network, examiner: causal.Examiner, factor: float) -> bool:
        outcome = examiner.examine(lambda shard: self.study.scores(shard, network.weights))
        fine = outcome.finding is not Finding.CRITICAL and self.study.accepts(network.weights)
        return fine and self.study.holds_elsewhere(network.weights, factor)

    def _give_back_(self, taken: Sequence[Step]) -> None:
        for step in reversed(taken):
            back = replace(step, units=(), returned=step.units, evaluated=0, note=GIVEN_BACK)
            recorded = next(self.recorded, back)
            self.steps.append(recorded)
            self.on_step(recorded, 0, 1, {})
