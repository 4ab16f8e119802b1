"""One intervention's outcome: scores shard by shard, until the verdict is sure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from edgeprune.causal.verdict import Judge
from edgeprune.records import Doubles, Finding, Step

MIN_SHARD = 8
"""Images that one evaluation runs together at least."""
FEWEST_SHARDS = 2
"""That a part of the images must come to, so that it is looked at alone."""
TINY = 1e-9
"""Below any tolerance that counts."""
FORETOLD = 1
"""Shards of a first look where it is foretold which of them lose most."""


@dataclass(frozen=True, slots=True, eq=False)
class Shard:
    """A run of images, evaluated together: whole classes where images have one class each."""

    number: int
    images: slice
    scores: slice
    """Of the judge's scores, those of these images."""
    classes: tuple[int, ...]
    """Classes of the test that have some of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What an intervention did, as far as it was looked at."""

    finding: Finding
    effect: float
    worst_z: float
    worst_class: int
    evaluated: int
    z: Doubles
    """Of every test; NaN where not all its images were looked at."""

    @property
    def complete(self) -> bool:
        """Whether every class was looked at."""
        return not bool(np.isnan(self.z).any())

    def step(self, units: Mapping[str, Sequence[int]]) -> Step:
        """The record of the intervention that took these units out, by group; at least one group."""
        (group, first), *others = ((name, tuple(found)) for name, found in units.items())
        return Step(
            group=group,
            units=first,
            joint=dict(others),
            finding=self.finding,
            removed=self.finding is not Finding.CRITICAL,
            effect=self.effect,
            worst_z=self.worst_z,
            worst_class=self.worst_class,
            evaluated=self.evaluated,
        )


def make_shards(judge: Judge, *, minimum: int = MIN_SHARD) -> tuple[Shard, ...]:
    """Consecutive classes (images, where these show several), together at least `minimum` images."""
    by_class = np.array_equal(np.concatenate([c.places for c in judge.classes]), judge.images)
    last_of_image = np.flatnonzero(np.diff(judge.images, append=len(judge.images)))
    ends = [int(c.places[-1]) for c in judge.classes] if by_class else last_of_image
    shards: list[Shard] = []
    start, first = 0, 0
    for end in map(int, ends):
        stop, image = end + 1, int(judge.images[end]) + 1
        if image - first >= minimum or stop == len(judge.dense):
            inside = tuple(
                number
                for number, test_class in enumerate(judge.classes)
                if ((start <= test_class.places) & (test_class.places < stop)).any()
            )
            shards.append(Shard(len(shards), slice(first, image), slice(start, stop), inside))
            start, first = stop, image
    return tuple(shards)


class Crew(Protocol):
    """Who evaluates shards: this process, or several that share the work."""

    @property
    def at_once(self) -> int: ...
    def gather(
        self, scores: Callable[[Shard], Doubles], shards: Sequence[Shard], *, width: int | None = None
    ) -> list[Doubles]:
        """What a function gives for each shard: so many numbers, or one for each of its scores."""


class Alone:
    """This process, shard by shard."""

    at_once = 1

    def gather(
        self, scores: Callable[[Shard], Doubles], shards: Sequence[Shard], *, width: int | None = None
    ) -> list[Doubles]:
        return [scores(shard) for shard in shards]


@dataclass(slots=True, eq=False)
class Examiner:
    """Judges interventions; the classes that have least to lose are asked first.

    Attributes:
        judge: Judges scores against the dense network's.
        shards: From `make_shards`.
        early_exit: Stop at the first class that is significantly worse: the others cannot change the verdict.
        crew: Who evaluates the shards; the outcome does not depend on it.
        sorted: Whether the order of the classes is that of the current network.
    """

    judge: Judge
    shards: Sequence[Shard]
    early_exit: bool = True
    crew: Crew = field(default_factory=Alone)
    sorted: bool = True
    _order: list[Shard] = field(init=False)
    _blamed: list[int] = field(default_factory=list, init=False)
    """Classes that refused since the network changed last, and are asked first."""
    _whole: bool = field(init=False)
    """Whether each class is in one shard."""
    _slack: Doubles = field(init=False)
    """How near each class is to its limit in the current network (-1), where that is known."""

    def __post_init__(self) -> None:
        self._order = list(self.shards)
        self._slack = np.zeros(self.judge.tests)
        self._whole = sum(len(shard.classes) for shard in self.shards) <= len(self.judge.classes)

    def examine(
        self, scores: Callable[[Shard], Doubles], *, share: float = 1.0, expected: Doubles | None = None
    ) -> Outcome:
        """The outcome of an intervention that gives these scores.

        Args:
            scores: Scores of one shard.
            share: Of the images, how many to look at: whole shards. Below 1, only a refusal is sure.
            expected: By how much the mean score of each shard should change, where that is foretold.
        """
        judge = self.judge
        z = np.full(judge.tests, np.nan)
        changed = np.full(len(judge.dense), np.nan)
        waiting = [len(test_class.places) for test_class in judge.classes]
        effects, looked_at, evaluated = 0.0, 0, 0
        finding = Finding.NEUTRAL
        for shard, found in self._each(scores, self._first(share, expected)):
            places = np.arange(shard.scores.start, shard.scores.stop)
            changed[shard.scores] = found
            effects += judge.effect(places, found) * len(places)
            looked_at += len(places)
            evaluated += shard.images.stop - shard.images.start
            for number in shard.classes:
                own = judge.classes[number].places
                waiting[number] -= int(((own >= shard.scores.start) & (own < shard.scores.stop)).sum())
                if not waiting[number]:
                    z[number] = judge.z(number, changed[own])
            if judge.pooled and looked_at == len(changed):
                z[-1] = judge.pooled_z(changed)
            finding = judge.finding(z)
            if self.early_exit and (finding is Finding.CRITICAL or judge.pool_is_lost(changed)):
                finding = Finding.CRITICAL
                break
        if np.isnan(z).all():  # the pool was lost before any class had all its images
            z[-1] = judge.hopeful_z(changed)
        return Outcome(
            finding=finding,
            effect=effects / looked_at,
            worst_z=float(np.nanmin(z)),
            worst_class=int(np.nanargmin(z)),
            evaluated=evaluated,
            z=z,
        )

    def all_scores(self, scores: Callable[[Shard], Doubles]) -> Doubles:
        """All scores, in their order."""
        return np.concatenate(self.crew.gather(scores, self.shards))

    def _first(self, share: float, expected: Doubles | None) -> Sequence[Shard]:
        """The first shards with this share of the images, or those that are foretold to lose most.

        All of them where a class is in several, and where so few shards would save little: units that wait
        for a test together leave in other sets, which cost 0.04 of SAUCE on resnet20 (10 shards).
        """
        order = self._order if expected is None else self._foretold(expected)
        if share * len(order) < FEWEST_SHARDS or share >= 1 or not self._whole:
            return order
        if expected is not None:
            return order[:FORETOLD]
        sizes = np.cumsum([shard.images.stop - shard.images.start for shard in order])
        return order[: int(np.searchsorted(sizes, share * sizes[-1])) + 1]

    def _foretold(self, expected: Doubles) -> list[Shard]:
        """The shards in the order of how near their classes should come to their limits, or pass them."""
        tolerance = np.maximum(self.judge.tolerance, TINY)
        return self._by(lambda shard: self._slack + expected[shard.number] / tolerance)

    def _by(self, slack: Callable[[Shard], Doubles]) -> list[Shard]:
        """The shards in the order of the least that one of their classes has left."""
        return sorted(self.shards, key=lambda shard: float(min(slack(shard)[list(shard.classes)])))

    def _each(
        self, scores: Callable[[Shard], Doubles], order: Sequence[Shard]
    ) -> Iterator[tuple[Shard, Doubles]]:
        step = self.crew.at_once
        for first in range(0, len(order), step):
            some = order[first : first + step]
            yield from zip(some, self.crew.gather(scores, some), strict=True)

    def everything(self) -> Examiner:
        """Looks at all images, in their order."""
        return Examiner(self.judge, self.shards, early_exit=False, crew=self.crew)

    def move_(self, z: Doubles | None) -> None:
        """The network has changed: z of every class in it, None where that is not known."""
        self._blamed.clear()
        self.sorted = False
        if z is not None:
            self._sort_(z)

    def know_(self, scores: Callable[[Shard], Doubles]) -> None:
        """Look at the current network, which gives these scores, unless it is known what it leaves."""
        if not self.sorted:
            self._sort_(self.everything().examine(scores).z)

    def blame_(self, number: int) -> None:
        """Ask this class first until the network changes."""
        self._blamed.append(number)
        self.put_first_(number)

    def put_first_(self, number: int) -> None:
        """Ask this class first next time."""
        first = next((shard for shard in self._order if number in shard.classes), None)
        if first is not None:  # else it is the pool
            self._order.remove(first)
            self._order.insert(0, first)

    def _sort_(self, z: Doubles) -> None:
        """Ask first those classes that come closest to their limits in the current network.

        A refusal of one unit of MobileNetV2 took 24 images this way, 35 where the class that came out worst
        last came first, and 13 in the best of all orders.
        """
        self._slack = z / self.judge.quantiles
        self._order = self._by(lambda shard: self._slack)
        for number in self._blamed:
            self.put_first_(number)
        self.sorted = True
