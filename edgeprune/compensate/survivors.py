"""Removed units as affine functions of those that stay.

When units P leave and K stay, what P would have given is predicted from K by least squares: x_P ≈ B x_K + c
with B = Σ_PK (Σ_KK + λI)⁻¹ and c = μ_P - B μ_K, so that a layer that reads them gets the weight W_K + W_P B
(the same map for every tap of a convolution) and the bias b + W_P c (CORP, arXiv 2602.05243; without c
GRAIL, arXiv 2602.23795; with B = 0 the mean shift of VBP, arXiv 2507.12988). No solve is needed in the
walk: with the precision matrix Ω of the inputs, B = -Ω_PP⁻¹ Ω_PK, and after a removal Ω ← Ω - Ω_:P Ω_PP⁻¹
Ω_P:.

What cannot be predicted is the *damage* of a removal: tr(W_P Ω_PP⁻¹ W_Pᵀ), here as a share of the variance
of what the layer's output becomes part of. Damages of one group add up when its units leave one after the
other. A grouped convolution is as many layers side by side, each with Σ and Ω of its own channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from edgeprune.compensate.layers import TINY, Layer, Read, mixes, table_of, tap_shares, weight_of
from edgeprune.compensate.moments import Measured
from edgeprune.compensate.shares import Shares, about_zero, precision
from edgeprune.records import ChannelGroup

Removed = Mapping[str, Sequence[int]]
Mode = Literal["none", "mean", "linear", "affine"]

ROUNDS = 32
"""A group's order is found in about so many rounds for each factor e of its width: the fewer, the coarser."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Units of one group that leave together, and what their leaving would cost after all before it."""

    group: str
    units: tuple[int, ...]
    damage: float


@dataclass(slots=True, eq=False)
class Reader:
    """A layer that sums over a group: where the group's units lie among its inputs."""

    layer: Layer
    indices: Tensor
    """Shape (units, copies)."""


@dataclass(slots=True, eq=False)
class Survivors:
    """The current network: weights of the layers, with removed units' shares given to the survivors.

    Args:
        layers: From `find_layers`.
        groups: All channel groups.
        weights: What the network computes with now.
        measured: Moments of that network.
        gone: Units removed before: their channels are no longer read.
        mode: `affine`; `linear` leaves the constant out, so that biases stay; `mean` gives the removed units'
            means to the biases; `none` zeroes.
    """

    layers: Mapping[str, Layer]
    groups: Sequence[ChannelGroup]
    weights: dict[str, Tensor]
    measured: Measured
    gone: Removed = field(default_factory=dict)
    mode: Mode = "affine"
    _readers: dict[str, list[Reader]] = field(init=False)
    _zeroed: dict[str, list[tuple[str, int, Tensor]]] = field(init=False)
    _precision: dict[Read, Tensor] = field(init=False)
    _removed: dict[str, list[int]] = field(init=False)

    def __post_init__(self) -> None:
        if self.mode == "linear":
            self.measured = about_zero(self.measured)
        self._readers, self._zeroed = {}, {}
        for group in self.groups:
            self._readers[group.name], self._zeroed[group.name] = self._split(group)
        self._removed = {name: list(units) for name, units in self.gone.items()}
        self._precision = self._precisions(wary=True)

    def _precisions(self, *, wary: bool) -> dict[Read, Tensor]:
        """Ω of every tensor that a layer reads, from the moments and without the units removed so far."""
        dead: dict[Read, list[Tensor]] = {}
        for name, units in self._removed.items():
            for reader in self._readers[name]:
                dead.setdefault(reader.layer.read, []).append(reader.indices[list(units)].ravel())
        return {
            read: precision(moments, dead.get(read, []), wary=wary)
            for read, moments in self.measured.sources.items()
        }

    def _split(self, group: ChannelGroup) -> tuple[list[Reader], list[tuple[str, int, Tensor]]]:
        """The layers that can be compensated, and the weights of which entries can only be zeroed."""
        readers, others = [], []
        device = next(iter(self.weights.values())).device
        for slot in group.slots:
            layer = self.layers.get(slot.parameter)
            indices = torch.from_numpy(slot.indices).to(device)
            if not slot.consumer:
                continue
            reads = layer is not None and layer.axis == slot.axis and mixes(layer, self.weights[layer.weight])
            if layer is None or not reads or self.mode == "none":
                others.append((slot.parameter, slot.axis, indices))
            else:
                readers.append(Reader(layer, indices))
        return readers, others

    @property
    def removed(self) -> dict[str, tuple[int, ...]]:
        """Units removed so far, per group."""
        return {name: tuple(sorted(units)) for name, units in self._removed.items() if units}

    def without(self, removed: Removed) -> dict[str, Tensor]:
        """The weights and biases that change when these units leave as well."""
        return self._leave(removed)[0]

    def remove_(self, removed: Removed) -> None:
        """Take units out of the current network."""
        changed, precisions = self._leave(removed)
        self.weights.update(changed)
        self._precision.update(precisions)
        for name, units in removed.items():
            self._removed.setdefault(name, []).extend(units)

    def _leave(self, removed: Removed) -> tuple[dict[str, Tensor], dict[Read, Tensor]]:
        changed: dict[str, Tensor] = {}
        leaving: dict[str, list[Tensor]] = {}
        for name, units in removed.items():
            for reader in self._readers[name]:
                leaving.setdefault(reader.layer.weight, []).append(reader.indices[list(units)].ravel())
        shares: dict[Read, Shares] = {}
        for weight, pieces in leaving.items():
            layer = self.layers[weight]
            if layer.read not in shares:
                mean = self.measured.sources[layer.read].mean
                shares[layer.read] = Shares.of(
                    self._precision[layer.read], torch.cat(pieces), mean, shared=self.mode != "mean"
                )
            changed |= self._compensated(layer, shares[layer.read])
        for name, units in removed.items():
            for parameter, axis, indices in self._zeroed[name]:
                base = changed.get(parameter, self.weights[parameter])
                changed[parameter] = base.index_fill(axis, indices[list(units)].ravel(), 0.0)
        return changed, {read: found.precision for read, found in shares.items()}

    def _compensated(self, layer: Layer, found: Shares) -> dict[str, Tensor]:
        weight = self.weights[layer.weight]
        table = table_of(layer, weight.double())  # (groups, outputs, taps..., inputs)
        lost = table[..., found.leaving]
        rows = lost.flatten(1, -2)
        alone = layer.transposed and self.mode == "affine"
        table = table + (rows @ (found.about_zero if alone else found.shares)).view_as(table)
        table[..., found.leaving] = 0.0
        changed = {layer.weight: _like(weight_of(layer, table), weight)}
        if layer.bias is not None and not layer.transposed:
            taps = (rows @ found.constants[..., None]).view(*lost.shape[:-1]).flatten(0, 1)
            if taps.ndim > 1:
                taps = (taps * tap_shares(layer, weight).to(taps)).flatten(1).sum(dim=1)
            changed[layer.bias] = _like(self.weights[layer.bias].double() + taps, self.weights[layer.bias])
        return changed

    def ladders(self, steps: Mapping[str, int]) -> dict[str, list[Block]]:
        """Group -> all its units that may leave, in the order in which they can best be spared.

        Args:
            steps: Group -> units by which its width may change; each block leaves a width of whole steps.
        """
        known = self._precisions(wary=False)
        return {
            group.name: list(self._group_blocks(group, steps[group.name], known)) for group in self.groups
        }

    def _group_blocks(self, group: ChannelGroup, step: int, known: Mapping[Read, Tensor]) -> Iterable[Block]:
        gone = set(self._removed.get(group.name, ()))
        left = [unit for unit in range(group.units) if unit not in gone]
        order, damages = self._eliminate(group, left, known)
        cuts = list(range(len(left) % step or step, len(left), step))  # at least one step stays
        for first, last in zip([0, *cuts], cuts, strict=False):
            yield Block(group=group.name, units=tuple(order[first:last]), damage=sum(damages[first:last]))

    def _eliminate(
        self, group: ChannelGroup, left: Sequence[int], known: Mapping[Read, Tensor]
    ) -> tuple[list[int], list[float]]:
        """Units in the order in which they can best be spared, each given that those before it have left."""
        views = self._views(group, left, known)
        if not views:
            return list(left), [float("inf")] * len(left)
        units = torch.tensor(list(left)).to(views[0].gram.device)
        order: list[int] = []
        damages: list[float] = []
        while len(units) > 1:
            single = torch.stack([view.damages() for view in views]).sum(dim=0)
            count = max(1, len(units) // ROUNDS)
            chosen = single.argsort(stable=True)[:count]
            joint = sum(view.leave_(chosen) for view in views)
            order += units[chosen].tolist()
            damages += (single[chosen] / single[chosen].sum().clamp_min(TINY) * joint).tolist()
            keep = torch.ones_like(units, dtype=torch.bool)
            keep[chosen] = False
            units = units[keep]
        return [*order, *units.tolist()], [*damages, *[float("inf")] * len(units)]

    def _views(self, group: ChannelGroup, left: Sequence[int], known: Mapping[Read, Tensor]) -> list[_View]:
        """One per tensor that the group's units are read from, all layers that read it together."""
        grams: dict[Read, Tensor] = {}
        places: dict[Read, Tensor] = {}
        for reader in self._readers[group.name]:
            layer, read = reader.layer, reader.layer.read
            mine = reader.indices[list(left)].ravel()
            rows = table_of(layer, self.weights[layer.weight])[..., mine].flatten(1, -2).double()
            gram = rows.mT @ rows / max(self.measured.energy[layer.weight], TINY)
            grams[read] = grams[read] + gram if read in grams else gram
            places[read] = mine
        return [
            _View(gram, known[read][:, places[read]][:, :, places[read]], len(left))
            for read, gram in grams.items()
        ]


@dataclass(slots=True, eq=False)
class _View:
    """What is read of a group's units at one tensor, while units leave; only the group's channels matter.

    Tensors have the layer's groups of channels in front; each of these holds every unit.
    """

    gram: Tensor
    """WᵀW of the layers that read them, scaled so that damages are shares of a variance; (groups, C, C)."""
    precision: Tensor
    """Ω, (groups, C, C): a unit's copies stand side by side."""
    units: int

    def damages(self) -> Tensor:
        """What each unit would cost if it left alone, shape (units,)."""
        gram, inner = self._own(self.gram), self._own(self.precision)
        if gram.shape[-1] == 1:
            return (gram / inner).sum(dim=0).ravel()
        solved: Tensor = torch.linalg.solve(inner, gram)
        return solved.diagonal(dim1=-2, dim2=-1).sum(dim=(0, -1))

    def _own(self, table: Tensor) -> Tensor:
        """The blocks on the diagonal, shape (groups, units, copies, copies)."""
        copies = table.shape[-1] // self.units
        blocks = table.reshape(len(table), self.units, copies, self.units, copies)
        return blocks.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)

    def leave_(self, units: Tensor) -> float:
        """Let units leave together; what that costs."""
        copies = self.gram.shape[-1] // self.units
        leaving = self.gram.new_zeros(self.units, copies, dtype=torch.bool)
        leaving[units] = True
        gone, stay = leaving.ravel().nonzero().ravel(), (~leaving).ravel().nonzero().ravel()
        cross = self.precision[:, gone][:, :, stay]
        inner = self.precision[:, gone][:, :, gone]
        lost = self.gram[:, gone][:, :, gone]
        shares = -torch.linalg.solve(inner, cross)
        mixed = self.gram[:, stay][:, :, gone] @ shares
        self.gram = self.gram[:, stay][:, :, stay] + mixed + mixed.mT + shares.mT @ lost @ shares
        self.precision = self.precision[:, stay][:, :, stay] + cross.mT @ shares
        self.units -= len(units)
        return float(torch.linalg.solve(inner, lost).diagonal(dim1=-2, dim2=-1).sum())


def in_order(
    ladders: Mapping[str, Sequence[Block]],
    prices: Mapping[str, float] | None = None,
    weights: Mapping[str, float] | None = None,
) -> list[Block]:
    """The blocks of all groups, in the order of the damage that each does for what it saves.

    Args:
        ladders: From `Survivors.ladders`; a block never comes before those that it comes after there.
        prices: Group -> what one unit less of it saves; None: every unit saves the same.
        weights: Group -> what its damage counts; 1 where nothing is said.
    """
    ranked: list[tuple[float, int, Block]] = []
    for number, (name, blocks) in enumerate(ladders.items()):
        price = max(prices[name], TINY) if prices else 1.0
        weight, most = (weights or {}).get(name, 1.0), 0.0
        for block in blocks:
            most = max(most, weight * block.damage / len(block.units) / price)
            ranked.append((most, number, block))
    return [block for *_, block in sorted(ranked, key=lambda item: item[:2])]


def _like(value: Tensor, other: Tensor) -> Tensor:
    """As `other` in type and memory format."""
    result = torch.empty_like(other)
    return result.copy_(value)
