"""The dense and the current network side by side: values of the same images in both, layer after layer.

A piece of images goes on when a layer asks for it: the first layers see so many positions that a few images
tell them all, and the others wait at the input, where they take the least memory. A piece whose values do not
fit into memory goes back there as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, fx

from edgeprune.compensate.layers import Subject, Values
from edgeprune.memory import total_bytes


@dataclass(slots=True, eq=False)
class Pair:
    """Values of the same images in both networks, each before an op of its own."""

    images: Values
    dense: Values
    current: Values = field(default_factory=dict)
    """Empty as long as the networks are one."""
    dense_place: int = 0
    current_place: int = 0
    kept_bytes: int = 0


class Pairs:
    """All images, in pieces.

    Args:
        subject: The dense network and images.
        weights: Of the current network; whoever changes them changes only layers that no piece has passed.
        changed: Ops that give something else in the current network.

    Attributes:
        pieces: One `Pair` for each piece of images.
        images: How many images they hold together.
    """

    def __init__(self, subject: Subject, weights: Mapping[str, Tensor], changed: frozenset[fx.Node]) -> None:
        self.program, self.weights, self.allowance = subject.program, weights, subject.allowance
        places = (place for place, op in enumerate(self.program.ops) if op.node in changed)
        self.first = min(places, default=0)
        self.pieces = [Pair(piece, dict(piece)) for piece in self.program.start(subject.images)]
        self.images = len(subject.images)

    def go_on_(self, pair: Pair, place: int) -> None:
        """Run a piece through both networks, the current one before the op there, the dense one past it.

        Up to the first change they are one.
        """
        if not pair.current:
            self._dense_on_(pair, min(place, self.first))
            pair.current_place, pair.current = pair.dense_place, dict(pair.dense)
        self._dense_on_(pair, place + 1)
        self.program.run_(pair.current, weights=self.weights, start=pair.current_place, stop=place)
        pair.current_place = place

    def _dense_on_(self, pair: Pair, place: int) -> None:
        self.program.run_(pair.dense, weights=self.program.dense, start=pair.dense_place, stop=place)
        pair.dense_place = max(place, pair.dense_place)

    def settle_(self, pair: Pair) -> None:
        """Keep a piece where it is, or send it back to the input where its values do not fit."""
        wanted = total_bytes([*pair.dense.values(), *pair.current.values()])
        if self.allowance.exchange(pair.kept_bytes, wanted):
            pair.kept_bytes = wanted
        else:
            pair.dense, pair.current, pair.dense_place, pair.kept_bytes = dict(pair.images), {}, 0, 0

    def release_(self) -> None:
        """Give back the memory of all pieces."""
        for pair in self.pieces:
            self.allowance.exchange(pair.kept_bytes, 0)
        self.pieces = []
