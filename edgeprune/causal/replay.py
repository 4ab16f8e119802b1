"""Runs a network under interventions, recomputing only what lies downstream of them.

Removing units means zeroing their entries wherever a layer sums over them. Before the first such layer
nothing changes: the values alive there are kept (*suffix replay*), per shard of the calibration images. That
first layer need not run again either (delta.py). Images whose values do not fit into memory start at the
input every time: values are large near the input, where little has to be computed again. Several
interventions can share a run (masks.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from edgeprune.causal.delta import Reader
from edgeprune.causal.masks import Layouts, Masks, layouts_of
from edgeprune.causal.program import Program, Values, Weights, weights_of
from edgeprune.memory import Allowance, total_bytes
from edgeprune.records import ChannelGroup, Doubles, Ints


@dataclass(slots=True, eq=False)
class Piece:
    """A few images on their way through the network, before the op at `place`."""

    images: Values
    values: Values
    place: int = 0
    charged: int = 0
    """Bytes of memory that its values take besides the images."""


class Replay:
    """The current network: the dense one without the units removed so far.

    Args:
        program: The dense network.
        groups: Channel groups that interventions may name.
        shards: Calibration images in pieces of what one evaluation runs, each of shape (n, C, H, W).
        delta: Whether the first layer behind the cut is corrected for few channels instead of run again: the
            same to rounding. Off: it keeps one value more at the cut, and was hardly quicker when measured.
        allowance: Memory for the values alive at the cut; None: any amount.

    Attributes:
        version: Rises whenever interventions may give something else than before.
    """

    def __init__(
        self,
        program: Program,
        groups: Sequence[ChannelGroup],
        shards: Sequence[Tensor],
        *,
        delta: bool = False,
        allowance: Allowance | None = None,
    ) -> None:
        self._delta = delta
        self._allowance = allowance or Allowance()
        self._reader: Reader | None = None
        self._read: dict[int, list[Tensor]] = {}
        self._program = program
        self._weights = dict(program.dense)
        self._groups = {group.name: group for group in groups}
        self._removed: dict[str, set[int]] = {group.name: set() for group in groups}
        self._cut = 0
        self.version = 0
        self._entered: ChannelGroup | None = None
        self._pieces = [[Piece(start, start) for start in program.start(images)] for images in shards]

    @property
    def removed(self) -> dict[str, tuple[int, ...]]:
        """Units removed so far, per group."""
        return {name: tuple(sorted(units)) for name, units in self._removed.items() if units}

    @property
    def weights(self) -> Weights:
        """What the current network computes with."""
        return self._weights

    @property
    def kept_bytes(self) -> int:
        """Memory of the values alive at the cut, over all shards."""
        outputs = [output for outputs in self._read.values() for output in outputs]
        values = [value for shard in self._pieces for piece in shard for value in piece.values.values()]
        return total_bytes([*outputs, *values])

    def position(self, group: ChannelGroup) -> int:
        """Where in the graph the first layer that sums over a group stands."""
        names = {slot.parameter for slot in group.slots if slot.consumer}
        return next(i for i, op in enumerate(self._program.ops) if names.intersection(weights_of(op.node)))

    def enter(self, group: ChannelGroup) -> None:
        """Move the cut forward to a group, computing what the current network gives up to there."""
        position = self.position(group)
        assert position >= self._cut, "groups are visited in the order of their positions"
        pieces = [piece for shard in self._pieces for piece in shard]
        self._read.clear()
        self._program.each(partial(self._go_on_, position), pieces)
        self._cut = position
        self.version += 1
        self._entered = group
        vars(self).pop("_masks", None)  # of the group before
        behind = any(piece.place < position for piece in pieces)
        self._reader = Reader.find(self._program, position, group) if self._delta and not behind else None

    def _go_on_(self, position: int, piece: Piece) -> None:
        """Move a piece to the cut, or back to the input where its values do not fit."""
        values = dict(piece.values)
        self._program.run_(values, weights=self._weights, start=piece.place, stop=position)
        wanted = total_bytes(values.values())
        if self._allowance.exchange(piece.charged, wanted):
            piece.values, piece.place, piece.charged = values, position, wanted
        else:
            piece.values, piece.place, piece.charged = piece.images, 0, 0

    def outputs(self, shard: int, group: ChannelGroup | None = None, units: Sequence[int] = ()) -> Tensor:
        """Logits of one shard's images, shape (n, K), with these units taken out as well."""
        weights = self._weights if group is None else {**self._weights, **self._zeroed(group, units)}
        reader, program = self._reader, self._program
        if reader is not None and group is not None and units:
            channels = reader.channels(group, units)
            if reader.pays(channels, self._weights):
                pieces = self._corrected(shard, reader, channels)
                return program.logits(pieces, weights, start=self._cut + 1)
        return torch.cat(program.each(partial(self._finish, weights), self._pieces[shard]))

    @cached_property
    def _layouts(self) -> Layouts:
        return layouts_of(self._program)

    @cached_property
    def _masks(self) -> Masks | None:
        """Of the group entered last; found when several interventions are to run at once."""
        return Masks.find(self._program, self._entered, self._layouts) if self._entered else None

    def several(self, shard: int, group: ChannelGroup, sets: Sequence[Sequence[int]]) -> Tensor:
        """Logits of one shard's images without each of these sets of units, shape (sets, n, K).

        Of the group entered last; in one run where layers allow it.
        """
        if self._masks is None:
            return torch.stack([self.outputs(shard, group, units) for units in sets])
        masked = partial(self._masked, self._masks, sets)
        return torch.cat(self._program.each(masked, self._pieces[shard]), dim=1)

    def _masked(self, masks: Masks, sets: Sequence[Sequence[int]], piece: Piece) -> Tensor:
        values = dict(piece.values)
        self._program.run_(values, weights=self._weights, start=piece.place, stop=self._cut)
        return masks.run(values, self._weights, self._cut, sets)

    def _finish(self, weights: Weights, piece: Piece) -> Tensor:
        """The outputs of a piece."""
        return self._program.finish(piece.values, weights=weights, start=piece.place)

    def _corrected(self, shard: int, reader: Reader, channels: Ints) -> list[Values]:
        """The values alive behind the first layer, which reads these channels no more."""
        alive = [piece.values for piece in self._pieces[shard]]
        if shard not in self._read:
            self._read[shard] = self._program.values_at(alive, self._weights, self._cut)

        def corrected(piece: tuple[Values, Tensor]) -> Values:
            values, output = piece
            return reader.without(values, output, self._weights, channels)

        return self._program.each(corrected, zip(alive, self._read[shard], strict=True))

    def changes(
        self, shard: int, group: ChannelGroup, scores: Callable[[Tensor, slice], Tensor], weights: Weights
    ) -> Doubles:
        """By how much the removal of each unit changes the sum of a shard's scores, to first order.

        Removing a unit takes its weights w wherever a layer sums over it: Σ -w · ∂scores/∂w over those. One
        run back tells it of all units of the group entered last.

        Args:
            shard: Number of the shard.
            group: The group.
            scores: Scores of some of the shard's images, differentiable, from the network's output for them.
            weights: Of the network that is looked at.
        """
        names = list(dict.fromkeys(slot.parameter for slot in group.slots if slot.consumer))

        def slopes(part: tuple[Piece, slice]) -> dict[str, Tensor]:
            piece, images = part
            return self._program.slopes(
                piece.values,
                lambda outputs: scores(outputs, images).sum(),
                weights=weights,
                names=names,
                start=piece.place,
            )

        pieces = self._pieces[shard]
        ends = np.cumsum([len(piece.images[self._program.input]) for piece in pieces]).tolist()
        stretches = [slice(start, end) for start, end in pairwise([0, *ends])]
        total = np.zeros(group.units)
        for found in self._program.each(slopes, list(zip(pieces, stretches, strict=True))):
            for slot in (slot for slot in group.slots if slot.consumer):
                shares = (weights[slot.parameter] * found[slot.parameter]).double().movedim(slot.axis, 0)
                total -= shares.reshape(len(shares), -1).sum(1).numpy()[slot.indices].sum(axis=1)
        return total

    def full(self, inputs: Tensor) -> Tensor:
        """Logits of any images under the current network, shape (N, K)."""
        return self._program.logits(self._program.start(inputs), self._weights)

    def remove_(self, group: ChannelGroup, units: Sequence[int]) -> None:
        """Take units out of the current network."""
        self._read.clear()
        self.version += 1
        self._weights.update(self._zeroed(group, units))
        self._removed[group.name].update(units)

    def restore_(self, group: ChannelGroup, units: Sequence[int]) -> None:
        """Give units of the group entered last back to the current network."""
        self._read.clear()
        self.version += 1
        self._removed[group.name].difference_update(units)
        touched = {slot.parameter for slot in group.slots if slot.consumer}
        self._weights.update({name: self._program.dense[name] for name in touched})
        for other in self._groups.values():
            gone = sorted(self._removed[other.name])
            weights = zeroed(self._weights, other, gone) if gone else {}
            self._weights.update({name: weight for name, weight in weights.items() if name in touched})

    def _zeroed(self, group: ChannelGroup, units: Sequence[int]) -> dict[str, Tensor]:
        return zeroed(self._weights, group, units)


def zeroed(weights: Weights, group: ChannelGroup, units: Sequence[int]) -> dict[str, Tensor]:
    """The weights of all layers that sum over a group, with the units' entries at zero."""
    changed: dict[str, Tensor] = {}
    for slot in group.slots:
        if slot.consumer:
            base = changed.get(slot.parameter, weights[slot.parameter])
            index = torch.from_numpy(slot.indices[list(units)].ravel()).to(base.device)
            changed[slot.parameter] = base.index_fill(slot.axis, index, 0.0)
    return changed
