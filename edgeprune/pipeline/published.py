"""C-SWAP as published: layer by layer, ascending magnitude, plain removal (METHODS §1), and its ablations.

Where a limit on parameters or accuracy asks for more than the natural end, further passes over all layers
follow, each of which lets the scores fall further; the trajectory names the factor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from torch import Tensor

from edgeprune import causal, criteria
from edgeprune.pipeline.forecasting import foretell
from edgeprune.pipeline.options import Order
from edgeprune.pipeline.study import Study, Walked
from edgeprune.records import ChannelGroup, Doubles, Pass, Step

FACTOR = 2.0
"""By how much each pass beyond the natural end lets the scores fall further than the one before."""
LARGEST_FACTOR = 1e4
NATURAL = "natural end: every unit was tested"

Watch = Callable[[Step, int, float], None]
"""Step, units settled, share of parameters removed."""


def walk(study: Study, on_step: Watch, recorded: Sequence[Step]) -> Walked:
    """Run the walk to its end."""
    run = _Published(study, on_step, iter(recorded))
    stopped = run.passes_()
    removed, weights = run.replay.removed, run.replay.weights
    walked = Walked(
        steps=run.steps, stopped=stopped, removed=removed, weights=weights, passes=tuple(run.passes)
    )
    if study.options.only_zeroes:
        return walked
    weights, fit = study.compensated(removed)
    return replace(walked, weights=weights, fit=fit)


@dataclass(eq=False)
class _Published:
    study: Study
    on_step: Watch
    recorded: Iterator[Step]
    steps: list[Step] = field(default_factory=list)
    passes: list[Pass] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.parameters = dict(self.study.traced.graph_module.named_parameters())
        self.replay = self._replay({})

    def passes_(self) -> str:
        """Walk once, and again with more patience while a limit asks for more; why it ended."""
        options, factor = self.study.options, 1.0
        while True:
            steps, stopped = self._pass(factor)
            worst = min((step.worst_z for step in steps if step.removed), default=0.0)
            self.passes.append(self.study.describe_pass(factor, len(steps), self.replay.removed, worst))
            self.steps += steps
            more = options.asks_for_more and stopped.startswith("natural")
            if not more or factor > LARGEST_FACTOR:
                return stopped
            if options.max_accuracy_drop is not None and factor > 1 and not any(s.gain for s in steps):
                return "the limit on the accuracy drop was reached"
            factor *= FACTOR
            self.replay = self._replay(self.replay.removed)

    def _pass(self, factor: float) -> tuple[list[Step], str]:
        study, options, replay = self.study, self.study.options, self.replay
        batched = causal.Batched(replay, self._scores, self._several, study.at_once)
        walker = causal.Walker(
            network=replay,
            scores=batched.scores,
            judge=study.judge.relaxed(factor),
            order=self._order,
            rules=causal.Rules(
                group_test=options.group_test,
                early_exit=options.early_exit,
                align=options.align,
                reference=options.reference,
            ),
            within=study.ledger.within(options.max_param_ratio),
            accepts=lambda: study.accepts(replay.weights),
            foretell=lambda group: foretell(study, replay, group),
            on_step=lambda step, settled: self.on_step(
                step, settled, study.ledger.param_ratio(replay.removed)
            ),
            foresee=batched.foresee,
            crew=study.journey.crew,
        )
        return causal.walk(walker, study.groups, study.shards, self.recorded)

    def _replay(self, removed: Mapping[str, Sequence[int]]) -> causal.Replay:
        study = self.study
        replay = study.replay()
        for group in study.groups:
            if removed.get(group.name):
                replay.remove_(group, removed[group.name])
        return replay

    def _scores(self, shard: causal.Shard, group: ChannelGroup | None, units: Sequence[int]) -> Doubles:
        outputs = self.replay.outputs(shard.number, group, units).numpy()
        return self.study.scores_of(shard, outputs)

    def _several(
        self, shard: causal.Shard, group: ChannelGroup, sets: Sequence[Sequence[int]]
    ) -> list[Doubles]:
        outputs = self.replay.several(shard.number, group, sets).numpy()
        return [self.study.scores_of(shard, each) for each in outputs]

    def _order(self, group: ChannelGroup) -> list[int]:
        """Units of a group that are still there, in the order of testing."""
        gone = set(self.replay.removed.get(group.name, ()))
        options = self.study.options
        order = unit_order(group, self.parameters, order=options.order, seed=options.seed)
        return [unit for unit in order if unit not in gone]


def unit_order(
    group: ChannelGroup, parameters: Mapping[str, Tensor], *, order: Order = "magnitude", seed: int = 0
) -> list[int]:
    """All units of a group, in the order in which the walk tests them.

    Args:
        group: The group.
        parameters: The dense network's, by name.
        order: `magnitude` (ascending), or `random`.
        seed: Of `random`; each group has an order of its own.
    """
    match order:
        case "magnitude":
            return [int(u) for u in np.argsort(criteria.magnitude(group, parameters), kind="stable")]
        case "random":
            generator = np.random.default_rng([seed, *group.name.encode()])
            return [int(u) for u in generator.permutation(group.units)]
