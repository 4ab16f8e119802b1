"""A walk through blocks of units in one global order: group tests over all layers, the same invariant.

Where a limit asks for more than the test lets go, blocks leave whatever they do, and the log says what.

After a removal the next test takes twice as many blocks at once, after a refusal half as many. A block that
is refused alone closes its group for this walk: those that come after it in the group do more damage still.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from torch import Tensor

from edgeprune.causal.evaluation import Examiner, Shard
from edgeprune.errors import JournalError
from edgeprune.records import Doubles, Finding, Step

Units = dict[str, tuple[int, ...]]
Changed = Mapping[str, Tensor]

FIRST = 4
"""Blocks of the first test."""


class Block(Protocol):
    """Units of one group that leave together."""

    @property
    def group(self) -> str: ...
    @property
    def units(self) -> tuple[int, ...]: ...


class Network(Protocol):
    """The current network."""

    @property
    def removed(self) -> Units: ...
    def without(self, removed: Mapping[str, Sequence[int]]) -> Changed: ...
    def remove_(self, removed: Mapping[str, Sequence[int]]) -> None: ...


@dataclass(frozen=True, slots=True, eq=False)
class OrderedWalk:
    """Everything one walk needs.

    Attributes:
        network: Changed as the walk goes.
        blocks: In the order of testing.
        scores: Scores of one shard's images with these weights changed as well.
        examiner: Judges them.
        most: Most blocks tested at once.
        within: Whether a set of removed units is still within the limits on size.
        on_step: Called after each intervention with the step and the blocks settled.
        recorded: Steps of an interrupted walk, taken over without evaluating again.
        forced: Whether blocks leave that a class needs.
    """

    network: Network
    blocks: Sequence[Block]
    scores: Callable[[Shard, Changed], Doubles]
    examiner: Examiner
    most: int
    within: Callable[[Units], bool] = lambda removed: True
    on_step: Callable[[Step, int], None] = lambda step, settled: None
    recorded: Iterator[Step] = field(default_factory=lambda: iter(()))
    forced: bool = False

    def run(self) -> tuple[list[Step], bool]:
        """Walk; gives the steps, and whether the limit on size ended it."""
        steps: list[Step] = []
        queue = list(self.blocks)
        count, suspects, refusal = FIRST, 0, None
        if self.network.removed:
            self.examiner.move_(None)
        while queue:
            some = queue[:count]
            if not self.within(joined(self.network.removed, some)):
                if len(some) == 1:
                    return steps, True
                count = len(some) // 2
                continue
            known = refusal if suspects == len(some) == 1 else None
            step = self._test(some, known, settled=len(self.blocks) - len(queue))
            steps.append(step)
            if step.removed:
                queue = queue[len(some) :]
                suspects = max(0, suspects - len(some))
                count = (suspects + 1) // 2 or min(2 * len(some), self.most)
            elif len(some) > 1:
                suspects, refusal, count = len(some), step, len(some) // 2
            else:
                queue = [block for block in queue if block.group != some[0].group]
                suspects, count = 0, 1
        return steps, False

    def _test(self, some: Sequence[Block], known: Step | None, *, settled: int) -> Step:
        units = joined({}, some)
        step = next(self.recorded, None)
        if step is not None and step.together != units:
            raise JournalError("the interrupted walk went another way")
        if step is None and known is not None:  # one block: of one group
            step = replace(known, group=some[0].group, units=some[0].units, joint={}, evaluated=0)
        z = None
        if step is None:
            self.examiner.know_(lambda shard: self.scores(shard, {}))
            changed = self.network.without(units)
            outcome = self.examiner.examine(lambda shard: self.scores(shard, changed))
            step, z = outcome.step(units), outcome.z
            step = replace(step, removed=step.removed or self.forced)
        if step.removed:
            self.network.remove_(units)
        if step.finding is Finding.CRITICAL:
            self.examiner.blame_(step.worst_class)
        else:
            self.examiner.move_(z)
        self.on_step(step, settled + (len(some) if step.removed or len(some) == 1 else 0))
        return step


def joined(removed: Mapping[str, tuple[int, ...]], blocks: Sequence[Block]) -> Units:
    """Units that are gone when these blocks leave as well."""
    result = dict(removed)
    for block in blocks:
        result[block.group] = (*result.get(block.group, ()), *block.units)
    return result
