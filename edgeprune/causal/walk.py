"""The walk of C-SWAP: layer by layer, unit by unit, intervene on the current network, test, remove or keep.

Published: progressive removal, ascending magnitude within a layer, any-class rule; the reference is the dense
network (our reconstruction: `Rules.reference`).
Ours, with the same invariant (after every removal no class is significantly worse than dense at level α):

* group test: after two removals in a row the next test takes twice as many units at once, after a refusal
  half as many;
* first look: with group tests, a few units are tried on the classes that have least to lose, which suffices
  to refuse them; what passes waits, until all that wait are tested together on every class. If they are
  refused, the later half of them, and the units after those, are tried again;
* forecast: one run back tells, to first order, what each unit of a group does to each class; the class that
  should come nearest to its limit is asked first, and is all that a first look takes;
* sure early exit: images are evaluated class by class, those first that have least to lose; the first class
  that is significantly worse settles the verdict, whatever the others would say;
* alignment: at the end of a group, units are given back until its width is a multiple of the target's step,
  and what is left is tested again, so that the guarantee holds for the network as deployed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import gcd
from typing import Literal, Protocol

from edgeprune.causal.batched import Examine
from edgeprune.causal.evaluation import Alone, Crew, Examiner, Outcome, Shard
from edgeprune.causal.schedule import Schedule
from edgeprune.causal.verdict import Judge
from edgeprune.records import ChannelGroup, Doubles, Finding, Step

KNOWN = "known from the test of more units at once"
TOGETHER = "together on all classes, after a first look at each"
SMALL = 4
"""Units that get a first look; more are tested on all classes at once."""
FIRST_WAITING = 4
"""Sets that wait, at most, for the first test together."""

Removed = Mapping[str, tuple[int, ...]]
Forecast = Callable[[], Doubles | None]
"""What a forecast made at some time says; asked for when it is needed first."""


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
    first_look: float = 1 / 8
    """Share of the images that a first look takes, where classes are many; 1: there is none."""
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
        foretell: Makes a forecast for the current network: by how much the removal of each unit of a group
            should change the mean score of each shard, shape (units, shards); None where that is not known.
            It decides which classes are asked first.
        on_step: Called after each intervention with the step, and the units settled so far: it never falls.
        foresee: Told the sets of units that come next as long as all are refused, and who judges them.
        crew: Who evaluates the shards.
    """

    network: Network
    scores: Callable[[Shard, ChannelGroup | None, Sequence[int]], Doubles]
    judge: Judge
    order: Callable[[ChannelGroup], Sequence[int]]
    rules: Rules = field(default_factory=Rules)
    within: Callable[[Removed], bool] = lambda removed: True
    accepts: Callable[[], bool] = lambda: True
    foretell: Callable[[ChannelGroup], Forecast] = lambda group: lambda: None
    on_step: Callable[[Step, int], None] = lambda step, settled: None
    foresee: Callable[[Iterable[Sequence[int]], Examine], None] = lambda sets, examine: None
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
    examiner = Examiner(
        walker.judge,
        shards,
        early_exit=walker.rules.early_exit,
        crew=walker.crew,
        sorted=not walker.network.removed,
    )
    run = _Run(walker, examiner, iter(recorded))
    stopped = "natural end: every unit was tested"
    for group in sorted(groups, key=lambda g: (walker.network.position(g), g.name)):
        walker.network.enter(group)
        if not run.visit(group):
            stopped = "the limit on removed parameters was reached"
        run.settled += group.units
    return run.steps, stopped


@dataclass(slots=True, eq=False)
class _Visit:
    """What is known of a group while its units are tested."""

    group: ChannelGroup
    schedule: Schedule
    tested: dict[int, Step]
    """How many units were removed when the network was found not critical, and the step."""
    taken: list[int] = field(default_factory=list)
    """Units removed, in order."""
    passed: list[tuple[int, Sequence[int]]] = field(default_factory=list)
    """Units that passed a first look, with the schedule's place before them."""

    @property
    def waiting(self) -> list[int]:
        """Units that passed a first look, in order."""
        return [unit for _, units in self.passed for unit in units]


@dataclass(slots=True, eq=False)
class _Run:
    walker: Walker
    examiner: Examiner
    recorded: Iterator[Step]
    steps: list[Step] = field(default_factory=list)
    settled: int = 0
    moved: bool = False
    """Whether the network has changed since the reference was computed."""
    forecast: Forecast = lambda: None
    """Of the group that is visited."""
    together: int = FIRST_WAITING
    """Sets that may wait for a test together."""
    next: Step | None = None
    """Of the recorded steps, the one looked at but not taken yet."""
    furthest: int = 0
    """Most units settled so far: what waits may turn out not to be."""

    def visit(self, group: ChannelGroup) -> bool:
        """Test the units of a group; False when the limit on size left some of them untested."""
        order, most = list(self.walker.order(group)), self.walker.rules.group_test
        visit = _Visit(group, Schedule(order, most), {0: _untouched(group)})
        self.forecast = self.walker.foretell(group)
        while True:
            waiting, schedule = visit.waiting, visit.schedule
            limit = min(len(order) - 1 - len(visit.taken), most) - len(waiting)
            units = schedule.units(limit)
            within = not units or self._within(group, [*waiting, *units])
            if not within and len(units) > 1:
                schedule.shrink_(len(units) // 2)
            elif units and within:
                ahead = ([*waiting, *some] for some in schedule.ahead(limit))
                self.walker.foresee(ahead, self.examiner.examine)
                self._try(visit, units)
                if len(visit.passed) >= self.together:
                    self._try_together(visit)
            elif waiting:
                self._try_together(visit)
            else:
                break
        self._settle(group, len(order), visit.taken, visit.tested)
        return within

    def _try(self, visit: _Visit, units: Sequence[int]) -> None:
        """Remove units, refuse them, or let them wait for the test together."""
        rules, schedule, waiting = self.walker.rules, visit.schedule, visit.waiting
        looks = rules.early_exit and rules.group_test > 1 and rules.reference == "dense"
        step = self._intervene(
            visit.group,
            units,
            waiting=waiting,
            share=rules.first_look if looks and (waiting or len(units) <= SMALL) else 1.0,
            done=schedule.place,
            known=schedule.known,
        )
        if step is None:
            visit.passed.append((schedule.place, units))
        elif step.removed:
            self._remove(visit, step)
        else:
            schedule.refuse_(step)
            return
        schedule.take_(len(units))

    def _try_together(self, visit: _Visit) -> None:
        """Remove what waits; while that is refused, its later half is to be tried again. One alone stays."""
        while waiting := visit.waiting:
            done = visit.schedule.place - len(waiting)
            step = self._intervene(visit.group, waiting, done=done, note=TOGETHER)
            assert step is not None, "a test on all images has a verdict"
            if step.removed:
                self.together *= 2
                self._remove(visit, step)
                return
            self.together = max(1, self.together // 2)
            half = len(visit.passed) // 2
            visit.schedule.rewind_(visit.passed[half][0])
            del visit.passed[half:]
            if not half:
                visit.schedule.refuse_(step)

    def _remove(self, visit: _Visit, step: Step) -> None:
        self.walker.network.remove_(visit.group, step.units)
        self.moved = True
        visit.passed.clear()
        visit.taken += step.units
        visit.tested[len(visit.taken)] = step

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
        step = self._intervene(group, (), done=group.units, known=known, note=note, returned=units)
        return step is not None and step.removed

    def _intervene(  # noqa: PLR0913  # what is tested, and what is known of it already
        self,
        group: ChannelGroup,
        units: Sequence[int],
        *,
        done: int,
        waiting: Sequence[int] = (),
        share: float = 1.0,
        known: Step | None = None,
        note: str = "",
        returned: Sequence[int] = (),
    ) -> Step | None:
        """Take units out, and those that wait: the step that it comes to, None after a first look passed.

        Args:
            group: The group.
            units: Those in question.
            done: Units of the group settled before these.
            waiting: Units that passed a first look.
            share: Of the images, for a first look.
            known: A step that tells the outcome.
            note: Of the step.
            returned: Units that were given back.
        """
        step, z = self._outcome(group, units, waiting=waiting, share=share, known=known, note=note)
        if step is None:
            return None
        step = replace(step, returned=tuple(returned))
        self._order_classes(step, z)
        self.steps.append(step)
        settles = step.removed or len(units) == 1
        self.furthest = max(self.furthest, self.settled + done + (len(units) if settles else 0))
        self.walker.on_step(step, self.furthest)
        return step

    def _outcome(  # noqa: PLR0913  # as above
        self,
        group: ChannelGroup,
        units: Sequence[int],
        *,
        waiting: Sequence[int],
        share: float,
        known: Step | None,
        note: str,
    ) -> tuple[Step | None, Doubles | None]:
        """The step, and z of every class where it was evaluated now."""
        recorded = self._peek()
        if recorded is not None:
            same = (recorded.group, recorded.units) == (group.name, tuple(units))
            if same and (recorded.note == TOGETHER) == (note == TOGETHER):
                self.next = None
                return recorded, None
            assert share < 1, "the journal is of another walk"
            return None, None  # else it would have been refused
        if known is not None and self.walker.rules.reference == "dense":
            return replace(known, units=tuple(units), evaluated=0, note=note or KNOWN), None
        outcome = self._evaluate(group, [*waiting, *units], share)
        step = replace(outcome.step({group.name: units}), note=note)
        return (None if step.removed and not outcome.complete else step), outcome.z

    def _peek(self) -> Step | None:
        self.next = self.next or next(self.recorded, None)
        return self.next

    def _evaluate(self, group: ChannelGroup, units: Sequence[int], share: float) -> Outcome:
        def scores(shard: Shard) -> Doubles:
            return self.walker.scores(shard, group, units)

        if not units:
            return self.examiner.everything().examine(scores)
        self._refer_()
        self.examiner.know_(lambda shard: self.walker.scores(shard, group, ()))
        rules = self.walker.rules
        effects = self.forecast() if rules.early_exit and rules.reference == "dense" else None
        expected = None if effects is None else effects[list(units)].sum(axis=0)
        return self.examiner.examine(scores, share=share, expected=expected)

    def _order_classes(self, step: Step, z: Doubles | None) -> None:
        """Which classes the examiner asks first from now on."""
        if self.walker.rules.reference == "current":
            self.examiner.put_first_(step.worst_class)
        elif step.removed or step.returned:
            self.examiner.move_(z)
        elif step.note == TOGETHER:
            self.examiner.blame_(step.worst_class)

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
