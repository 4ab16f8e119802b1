"""Which units of a group are tested together next: group tests with bisection."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgeprune.records import Step


@dataclass(slots=True, eq=False)
class Schedule:
    """Takes units in order; twice as many after two removals in a row, half as many after a refusal.

    When a set is refused and its first half removed, the network without the other half is the one that was
    refused: the search goes on inside that half, and when it is a single unit its verdict is known already.
    """

    order: Sequence[int]
    most: int
    """Most units tested at once."""
    place: int = 0
    """Units before this one in the order are settled."""
    _size: int = 1
    _suspects: int = 0
    """The next so many units are known to be critical together; 0: nothing is known."""
    _refusal: Step | None = None
    _growing: bool = True
    """Whether nothing was refused since the last removal."""

    def units(self, limit: int) -> Sequence[int]:
        """What to test next: at most `limit` units, none at the end."""
        return self.order[self.place : self.place + min(self._size, limit)]

    def ahead(self, limit: int) -> Iterator[Sequence[int]]:
        """What is tested next as long as everything is refused."""
        place, size = self.place, self._size
        while units := self.order[place : place + min(size, limit)]:
            yield units
            place += len(units) == 1
            size = max(1, len(units) // 2)

    @property
    def known(self) -> Step | None:
        """The refusal of the very network that testing the next units would give."""
        return self._refusal if self._suspects == 1 else None

    def shrink_(self, size: int) -> None:
        self._size = size

    def rewind_(self, place: int) -> None:
        """Go on from an earlier unit, one by one: what was found out since does not hold."""
        self.place, self._size, self._suspects = place, 1, 0

    def take_(self, count: int) -> None:
        """Go on after the next so many units were taken out."""
        self.place += count
        self._suspects = max(0, self._suspects - count)
        self._size = (self._suspects + 1) // 2 or min((1 + self._growing) * count, self.most)
        self._growing = True

    def refuse_(self, step: Step) -> None:
        """Go on after the next units had to stay."""
        count, self._growing = len(step.units), False
        if count > 1:
            self._suspects, self._refusal, self._size = count, step, count // 2
        else:
            self.place += 1
            self._suspects, self._size = 0, 1
