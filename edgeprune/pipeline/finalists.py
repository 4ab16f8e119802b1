"""At one share of the parameters: the walk's units, or those of the least magnitude in the dense network.

A walk keeps what is best after each of its passes, which need not be best at the share where it ends: where
little leaves, layer-adaptive magnitude, taken from the dense network at once, is now and then ahead
(docs/method.md). Both are compensated and fitted, and the answers to images that no fit has seen decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

from edgeprune import compensate
from edgeprune.pipeline import ranked
from edgeprune.pipeline.compensated import REACHED, Network
from edgeprune.pipeline.ledger import Removed, without
from edgeprune.pipeline.options import Journey
from edgeprune.pipeline.orders import LAMP, Orders
from edgeprune.pipeline.sharing import agreed
from edgeprune.pipeline.study import Study, Walked, Weights
from edgeprune.records import Finding

LEAST = 1e-3
"""Share of the parameters that is too little to look twice."""
EXCHANGED = "the least magnitude at this share answers nearer to the dense network"


@dataclass(eq=False)
class Finalists:
    """Networks without the same share of the parameters.

    Attributes:
        study: The dense network and images.
        most: Share of the parameters that may go at most.
    """

    study: Study
    most: float

    @property
    def compete(self) -> bool:
        """Whether there is anything but the walk to compare: not where the user names an order."""
        options = self.study.options
        return options.method == "c-swap-c" and options.counted is None and options.refits

    def best(self, walked: Network, share: float) -> Network:
        """The walk's network, or the one of the least magnitude at this share.

        One that keeps the limit on accuracy, and the guarantee of the walk, is better than one that does not;
        of two alike it is the one whose answers are nearer to the dense network's.
        """
        if not self.compete or self.study.ledger.param_ratio(walked.removed) < LEAST:
            return walked
        removed = self.by_magnitude(share)
        if removed == {name: units for name, units in walked.removed.items() if units}:
            return walked
        return nearest(self.study, [walked, fitted(self.study, removed)])

    def by_magnitude(self, share: float) -> dict[str, tuple[int, ...]]:
        """Group -> its units of the least layer-adaptive magnitude in the dense network."""
        return ranked.prefix(self.study, self._blocks, share)

    @cached_property
    def _blocks(self) -> list[compensate.Block]:
        study = self.study
        dense = study.survivors(study.program.dense, study.dense_moments, {})
        return Orders(study, dense, 1 - self.most).by_magnitude()


def settled(study: Study, walked: Walked, journey: Journey) -> Walked:
    """What a walk to a share of the parameters came to, or in its place the other finalist; logged then."""
    most = study.options.max_param_ratio
    if most is None:
        return walked
    share = most if walked.stopped == REACHED else study.ledger.param_ratio(walked.removed)
    own = Network(dict(walked.weights), walked.fit, walked.removed)
    best = Finalists(study, share).best(own, share)
    return walked if best is own else _exchanged(study, walked, best, journey)


def _exchanged(study: Study, walked: Walked, best: Network, journey: Journey) -> Walked:
    """The walk, and two more steps: what only it removed is given back, what only the other did leaves."""
    outcome = study.examiner().everything().examine(partial(study.scores, weights=best.weights))
    stays, leaves = without(walked.removed, best.removed), without(best.removed, walked.removed)
    common = without(walked.removed, stays)
    logged = []
    if stays:
        (first, units), *others = stays.items()
        step = replace(outcome.step({first: ()}), returned=units, joint=dict(others), evaluated=0)
        logged.append((replace(step, note=f"given back: {EXCHANGED}"), common))
    if leaves:
        step = replace(outcome.step(leaves), removed=True, note=EXCHANGED)
        logged.append((step, best.removed))
    for step, removed in logged:
        journey.on_step(step, study.ledger.units, study.ledger.units, study.ledger.param_ratio(removed))
    factor = study.judge.fallen(outcome.z)
    last = study.describe_pass(factor, 1, best.removed, outcome.worst_z, order=f"{LAMP}, dense network")
    return replace(
        walked,
        steps=[*walked.steps, *(step for step, _ in logged)],
        removed=best.removed,
        weights=best.weights,
        fit=best.fit,
        passes=(*walked.passes, last),
    )


def fitted(study: Study, removed: Removed) -> Network:
    """The dense network without these units, compensated and fitted as the options say."""
    weights, fit = study.compensated(removed)
    return Network(weights, fit, dict(removed))


def nearest(study: Study, finalists: Sequence[Network]) -> Network:
    """The one with the answers nearest to the dense network's, among those that keep what was promised."""
    move = study.mover(study.program.dense)
    ranks = [
        (not study.accepts(each.weights), not holds(study, each.weights), *move([each.weights]))
        for each in finalists
    ]
    best: int = agreed(study.journey.crew, ranks.index(min(ranks)))
    return finalists[best]


def holds(study: Study, weights: Weights) -> bool:
    """Whether no class is significantly worse than in the dense network, nor other images are."""
    outcome = study.examiner().examine(partial(study.scores, weights=weights))
    return outcome.finding is not Finding.CRITICAL and study.holds_elsewhere(weights)
