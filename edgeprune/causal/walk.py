"""The walk of C-SWAP: layer by layer, unit by unit, intervene on the current network, test, remove or keep.

Published: progressive removal, ascending magnitude within a layer, any-class rule; the reference is the dense
network (our reconstruction: `Rules.reference`).
Ours, with the same invariant (after every removal no class is significantly worse than dense at level α):

* group test: after a removal the next test takes twice as many units at once, after a refusal half as many;
* sure early exit: images are evaluated class by class, those that came out worst last first; the first class
  that is significantly worse settles the verdict, whatever the others would say;
* alignment: at the end of a group, units are given back until its width is a multiple of the target's step,
  and what is left is tested again, so that the guarantee holds for the network as deployed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import gcd
from typing import Literal, Protocol

from edgeprune.causal.evaluation import Alone, Crew, Examiner, Shard
from edgeprune.causal.schedule import Schedule
from edgeprune.causal.verdict import Judge
from edgeprune.records import ChannelGroup, Doubles, Finding, Step

KNOWN = "known from the test of more units at once"

Removed = Mapping[str, tuple[int, ...]]


class Network(Protocol):
    """What the walk needs of a replay."""

    @property
    def removed(self) -> dict[str, tuple[int, ...]]: ...
    def position(self, group: ChannelGroup) -> int: ...
    def enter(self, group: ChannelGroup) -> None: ...
    def remove_(self, group: ChannelGroup, units: Sequence[int]) -> None: ...
    def restore_(self, group: ChannelGroup, units: Sequence[int]) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How the walk goes; the defaults are those of `build`."""

    group_test: int = 64
    """Most units tested at once; 1 is the published walk."""
    early_exit: bool = True
    align: int = 8
    """Widths are multiples of this; 1 leaves them."""
    reference: Literal["dense", "current"] = "dense"
    """What interventions are compared with: the dense network, or the current one (no invariant then)."""


@dataclass(frozen=True, slots=True, eq=False)
class Walker:
    """Everything one walk needs; `walk` runs it.

    Attributes:
        network: The replay.
        scores: Scores σ* of one shard's images, with units of a group taken out as well.
        judge: Judges scores against the dense network's.
        order: Units of a group that are still there, in the order of testing (ascending magnitude).
        within: Whether a set of removed units is still within the limits on size (`--max-param-ratio`).
        accepts: Whether the current network keeps the accuracy limit; asked after each group.
        on_step: Called after each intervention with the step, and the units settled so far: it never falls.
        crew: Who evaluates the shards.
    """

    network: Network
    scores: Callable[[Shard, ChannelGroup | None, Sequence[int]], Doubles]
    judge: Judge
    order: Callable[[ChannelGroup], Sequence[int]]
    rules: Rules = field(default_factory=Rules)
    within: Callable[[Removed], bool] = lambda removed: True
    accepts: Callable[[], bool] = lambda: True
    on_step: Callable[[Step, int], None] = lambda step, settled: None
    crew: Crew = field(default_factory=Alone)


def walk(
    walker: Walker, groups: Sequence[ChannelGroup], shards: Sequence[Shard], recorded: Iterable[Step] = ()
) -> tuple[list[Step], str]:
    """Run a walk to its end.

    Args:
        walker: See `Walker`.
        groups: Channel groups; visited in the order of the graph.
        shards: From `make_shards`.
        recorded: Steps of an interrupted walk with the same inputs: taken over without evaluating again.

    Returns:
        All steps, and why the walk ended.
    """
    examiner = Examiner(walker.judge, shards, early_exit=walker.rules.early_exit, crew=walker.crew)
    run = _Run(walker, examiner, iter(recorded))
    stopped = "natural end: every unit was tested"
    for group in sorted(groups, key=lambda g: (walker.network.position(g), g.name)):
        walker.network.enter(group)
        if not run.visit(group):
            stopped = "the limit on removed parameters was reached"
        run.settled += group.units
    return run.steps, stopped


@dataclass(slots=True, eq=False)
class _Run:
    walker: Walker
    examiner: Examiner
    recorded: Iterator[Step]
    steps: list[Step] = field(default_factory=list)
    settled: int = 0
    moved: bool = False
    """Whether the network has changed since the reference was computed."""

    def visit(self, group: ChannelGroup) -> bool:
        """Test the units of a group; False when the limit on size left some of them untested."""
        order = list(self.walker.order(group))
        schedule = Schedule(order, self.walker.rules.group_test)
        taken: list[int] = []
        tested = {0: _untouched(group)}
        within = True
        while units := schedule.units(len(order) - 1 - len(taken)):
            within = self._within(group, units)
            if within:
                step = self._intervene(group, units, done=schedule.place, known=schedule.known)
                schedule.record_(step)
                if step.removed:
                    self.walker.network.remove_(group, units)
                    self.moved = True
                    taken += units
                    tested[len(taken)] = step
            elif len(units) > 1:
                schedule.shrink_(len(units) // 2)
            else:
                break
        self._settle(group, len(order), taken, tested)
        return within

    def _within(self, group: ChannelGroup, units: Sequence[int]) -> bool:
        removed = self.walker.network.removed
        return self.walker.within({**removed, group.name: (*removed.get(group.name, ()), *units)})

    def _settle(self, group: ChannelGroup, units: int, taken: list[int], tested: Mapping[int, Step]) -> None:
        """Give units back until the width is aligned, the network still not critical and accurate enough.

        Args:
            group: The group.
            units: Its width when it was reached.
            taken: Units removed, in order; those removed last, the most valuable, return first.
            tested: How many units were removed when the network was found not critical, and the step.
        """
        step = aligned_step(group, self.walker.rules.align)
        surplus = _surplus(units, len(taken), step)
        while taken:
            left = len(taken) - surplus
            fine = not surplus or self._give_back(group, taken[left:], tested.get(left))
            del taken[left:]
            if not taken or (fine and self.walker.accepts()):
                return
            surplus = _half(len(taken), step)

    def _give_back(self, group: ChannelGroup, units: Sequence[int], known: Step | None) -> bool:
        """Give units back; True when what is left out is not critical."""
        self._refer_()
        self.walker.network.restore_(group, units)
        self.moved = True
        note = f"{len(units)} units given back to align the width or keep the accuracy"
        return self._intervene(group, (), done=group.units, known=known, note=note, returned=units).removed

    def _intervene(  # noqa: PLR0913  # what is tested, and what is known of it already
        self,
        group: ChannelGroup,
        units: Sequence[int],
        *,
        done: int,
        known: Step | None = None,
        note: str = "",
        returned: Sequence[int] = (),
    ) -> Step:
        step = next(self.recorded, None)
        if self.walker.rules.reference == "current":
            known = None  # it was compared with another network
        if step is None and known is not None:
            step = replace(known, units=tuple(units), evaluated=0, note=note or KNOWN)
        if step is None:
            step = replace(self._evaluate(group, units), note=note)
        step = replace(step, returned=tuple(returned))
        assert (step.group, step.units) == (group.name, tuple(units)), "the journal is of another walk"
        self.examiner.put_first_(step.worst_class)
        self.steps.append(step)
        settles = step.removed or len(units) == 1
        self.walker.on_step(step, self.settled + done + (len(units) if settles else 0))
        return step

    def _evaluate(self, group: ChannelGroup, units: Sequence[int]) -> Step:
        if units:
            self._refer_()
        outcome = self.examiner.examine(lambda shard: self.walker.scores(shard, group, units))
        return outcome.step({group.name: units})

    def _refer_(self) -> None:
        """Compare with the current network from now on, where the rules say so."""
        if self.moved and self.walker.rules.reference == "current":
            scores = self.examiner.all_scores(lambda shard: self.walker.scores(shard, None, ()))
            self.examiner.judge = self.walker.judge.against(scores)
            self.moved = False


def _untouched(group: ChannelGroup) -> Step:
    """The network as it was before a group: found not critical when it was reached."""
    return Step(
        group=group.name,
        units=(),
        finding=Finding.NEUTRAL,
        removed=True,
        effect=0.0,
        worst_z=0.0,
        worst_class=0,
        evaluated=0,
    )


def aligned_step(group: ChannelGroup, align: int) -> int:
    """Units by which a width may change: a unit that owns several indices of its producer counts as many."""
    copies = min(slot.indices.shape[1] for slot in group.slots)
    return align // gcd(align, copies)


def _surplus(units: int, taken: int, step: int) -> int:
    """How many of the units taken must return for a width of whole steps: all where none is that narrow."""
    kept = -(-(units - taken) // step) * step
    return taken if kept >= units else kept - (units - taken)


def _half(taken: int, step: int) -> int:
    """About half of the units taken, in whole steps; all of them where they are no more than one step."""
    return taken if taken <= step else max(step, taken // (2 * step) * step)
