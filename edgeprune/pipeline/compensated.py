"""C-SWAP with compensation: passes of a walk in global order, each followed by sequential least squares.

A pass measures what the layers read, orders all units by the damage that is left after compensation, walks
through them with group tests on the compensated network, and refits every layer. Passes at level α go on
while they still remove something. Where a limit asks for more, each of the following ones takes a share of
the parameters in the best of several orders (`orders`), whatever the tests say; the trajectory names how far
the scores fell. A pass after which the refitted network breaks the guarantee, or the limit on accuracy, gives
back its last interventions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from edgeprune import causal, compensate
from edgeprune.pipeline import orders
from edgeprune.pipeline.ledger import Removed
from edgeprune.pipeline.study import NO_FIT, Study, Walked
from edgeprune.records import Finding, Pass, Step

MOST_BLOCKS = 64
LEAST_GAIN = 0.005
"""A pass at level α that removes less of the parameters than this is the last."""
MOST_PASSES = 40
STRIDE = 0.88
"""Share of the parameters that a pass beyond the natural end leaves."""
MOST_REFITS = 5
"""In the search for how much of a pass the refitted network bears."""
LENIENCE = 2.0
"""The walk itself lets scores fall further by this factor: the least squares after it makes good for that,
and the network as refitted is held to the level itself."""
REACHED = "the limit on removed parameters was reached"
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
    factor: float = 1.0
    """How much further than at level α the scores have fallen."""


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
        options, stride = self.study.options, None
        for _ in range(MOST_PASSES):
            before = self.study.ledger.param_ratio(network.removed)
            network, reached = self._pass(network, stride)
            gain = self.study.ledger.param_ratio(network.removed) - before
            if reached:
                return network, REACHED
            if stride is None:
                if gain >= LEAST_GAIN:
                    continue
                if not options.asks_for_more:
                    return network, "natural end: every unit was tested"
                stride = STRIDE
            elif gain < LEAST_GAIN:
                limited = options.max_accuracy_drop is not None
                return network, "the limit on the accuracy drop was reached" if limited else "no unit is left"
            elif self.steps[-1].returned:
                stride **= 0.5  # the next one will not go far either
        return network, f"{MOST_PASSES} passes were made"

    def _pass(self, network: Network, stride: float | None) -> tuple[Network, bool]:
        """Walk and refit; the network then, and whether the limit on parameters ended the walk.

        Args:
            network: Where it begins.
            stride: Share of the parameters to leave, whatever the tests say; None: as far as they let it go.
        """
        study = self.study
        measured = study.measure(network.weights)
        survivors = study.survivors(network.weights, measured, network.removed)
        if stride is None:
            name, blocks = "", orders.natural(study, survivors)
        else:
            name, blocks = orders.beyond(study, survivors, stride)
        self.blocks = len(blocks)
        steps, reached = causal.OrderedWalk(
            network=survivors,
            blocks=blocks,
            scores=lambda shard, changed: study.scores(shard, {**survivors.weights, **changed}),
            examiner=study.examiner(LENIENCE if stride is None else 1.0),
            most=min(MOST_BLOCKS, study.options.group_test),
            within=study.ledger.within(study.options.max_param_ratio),
            on_step=lambda step, settled: self.on_step(step, settled, len(blocks), survivors.removed),
            recorded=self.recorded,
            forced=stride is not None,
        ).run()
        self.steps += steps
        taken = [step for step in steps if step.removed]
        settled = self._settle(network, survivors, taken, tested=stride is None) if taken else network
        if steps:
            made = settled.factor, len(steps), settled.removed, settled.worst_z
            self.passes.append(study.describe_pass(*made, order=name))
        return settled, reached and settled.removed == survivors.removed

    def _settle(
        self, network: Network, survivors: compensate.Survivors, taken: list[Step], *, tested: bool
    ) -> Network:
        """Refit; where that breaks a limit, search for how much of what was taken the network bears."""
        good, count, bad = 0, len(taken), len(taken) + 1
        best = network
        for _ in range(MOST_REFITS):
            if count < len(taken):
                survivors = self._without(network, survivors.measured, taken[:count])
            candidate, holds = self._refitted(survivors, tested=tested)
            if holds:
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

    def _refitted(self, survivors: compensate.Survivors, *, tested: bool) -> tuple[Network, bool]:
        """The network after sequential least squares, and whether it keeps the guarantee and the limits."""
        study = self.study
        fit = study.refit(survivors.weights, survivors.removed)
        weights = {**survivors.weights, **fit.weights}
        examiner = study.examiner() if tested else study.examiner().everything()
        outcome = examiner.examine(lambda shard: study.scores(shard, weights))
        factor = 1.0 if tested else study.judge.fallen(outcome.z)
        network = Network(weights, fit, survivors.removed, outcome.worst_z, factor)
        if tested and (outcome.finding is Finding.CRITICAL or not study.holds_elsewhere(weights)):
            return network, False
        return network, study.accepts(weights)

    def _give_back_(self, taken: Sequence[Step], removed: Removed) -> None:
        for step in reversed(taken):
            back = replace(step, units=(), returned=step.units, evaluated=0, note=GIVEN_BACK)
            recorded = next(self.recorded, back)
            self.steps.append(recorded)
            self.on_step(recorded, self.blocks, self.blocks, removed)
