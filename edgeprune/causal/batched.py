"""Interventions that come next, evaluated together with the one that is asked for (METHODS §2.5).

Most units are refused, and a refusal leaves the network as it is. So when the walk asks for the scores of a
shard, the units that come next are taken out as well, each alone, in one run. Once the network changes, what
is known of them is thrown away: verdicts, their order and the trajectory are those of a walk one by one. It
makes no forecasts: they would have every unit look at other images.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

import torch

from edgeprune.causal.evaluation import Shard
from edgeprune.records import ChannelGroup, Doubles

log = logging.getLogger(__name__)
FIRST_SHARDS = 2
"""Of a test, that are looked at for several interventions: what comes further is likely to be removed, and
then all that was found for the others is of no use. On resnet20, 16 at once, 348 refusals took 494 runs
and 30,543 evaluated images this way, 424 and 44,847 without (one by one: 943 and 14,524)."""
Units = tuple[int, ...]
Alone = Callable[[Shard, ChannelGroup | None, Sequence[int]], Doubles]
"""Scores of one shard's images with units of a group taken out."""
Several = Callable[[Shard, ChannelGroup, Sequence[Units]], Sequence[Doubles]]
"""The same for several sets of units, each taken out alone."""
Examine = Callable[[Callable[[Shard], Doubles]], object]
"""Judges scores, shard by shard, until the verdict is sure."""


class Network(Protocol):
    @property
    def version(self) -> int: ...


class _Unknown(Exception):  # noqa: N818  # says what is the matter; never leaves this file
    """Scores that were not looked at yet."""


@dataclass(slots=True, eq=False)
class Batched:
    """Stands between a walk and its network.

    Attributes:
        network: Tells when it changes.
        alone: One intervention.
        several: Some of them.
        size: How many at once, at most; halved where memory does not suffice.
    """

    network: Network
    alone: Alone
    several: Several
    size: int
    _seen: int = -1
    """Changes of the network when the following was found."""
    _found: dict[Units, dict[int, Doubles]] = field(default_factory=dict)
    """Units -> number of a shard -> scores."""
    _next: list[Units] = field(default_factory=list)
    """What the walk asks for as long as all is refused."""
    _examine: Examine = lambda scores: None

    def foresee(self, sets: Iterable[Sequence[int]], examine: Examine) -> None:
        """What will be asked for next, as long as all of it is refused, and who judges it."""
        if self.size > 1:
            self._next, self._examine = [tuple(units) for units in islice(sets, self.size)], examine

    def scores(self, shard: Shard, group: ChannelGroup | None, units: Sequence[int]) -> Doubles:
        """Scores of one shard's images, with units of a group taken out as well."""
        if group is None or not units:
            return self.alone(shard, group, units)
        if self._seen != self.network.version:
            self._seen = self.network.version
            self._found.clear()
        asked = tuple(units)
        if shard.number not in self._found.get(asked, {}):
            self._look_(shard, group, asked)
        return self._found[asked][shard.number]

    def _look_(self, shard: Shard, group: ChannelGroup, asked: Units) -> None:
        """Evaluate one shard for what is asked, and for what comes next and has come as far."""
        sets, looked_at = [asked], self._found.get(asked, {}).keys()
        if self._next[:1] == sets and len(looked_at) < FIRST_SHARDS:
            level = [units for units in self._next[1:] if self._found.get(units, {}).keys() == looked_at]
            sets = [asked, *filter(self._open, level)][: self.size]
        found = None
        if len(sets) > 1:
            with suppress(torch.OutOfMemoryError):  # what the run held is free again behind this block
                found = self.several(shard, group, sets)
            if found is None:
                self.size = len(sets) // 2
                log.info("out of memory; from now on %d interventions at once", self.size)
                self._look_(shard, group, asked)
                return
        for one, scores in zip(sets, found or [self.alone(shard, group, asked)], strict=True):
            self._found.setdefault(one, {})[shard.number] = scores

    def _open(self, units: Units) -> bool:
        """Whether the verdict on units still depends on shards that were not looked at."""
        known = self._found.get(units, {})

        def scores(shard: Shard) -> Doubles:
            if shard.number not in known:
                raise _Unknown
            return known[shard.number]

        try:
            self._examine(scores)
        except _Unknown:
            return True
        return False
