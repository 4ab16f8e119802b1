"""Ties -> channel groups: which indices of which parameters are removed together."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import fx

from edgeprune.channels.rules import Rules, couple_node
from edgeprune.channels.ties import Ties
from edgeprune.channels.trace import Traced
from edgeprune.records import ChannelGroup, FrozenAxis, Ints, Slot

LAST_UNIT = "the only unit of its kind"
TIE_BYTES = 16

Removed = Mapping[str, tuple[int, ...]]
"""Group name -> the units that go."""
Reasons = dict[int, tuple[str, str]]
"""Component -> why it is frozen, and where."""


@dataclass(frozen=True, slots=True, eq=False)
class Coupling:
    """The coupled channels of one traced network, solved."""

    ties: Ties
    component: Ints
    """Identity -> number of the set that it hangs together with."""
    groups: tuple[ChannelGroup, ...]
    members: dict[str, Ints]
    """Group name -> component of each of its units."""
    frozen: tuple[FrozenAxis, ...]
    unknown_ops: dict[str, int]
    stopped: str
    """Why coupling gave only a partial answer; empty when it is whole."""

    def kept(self, removed: Removed) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Per identity, whether it stays when these units are removed."""
        gone = np.zeros(int(self.component.max(initial=-1)) + 1, dtype=bool)
        for group, units in removed.items():
            gone[self.members[group][list(units)]] = True
        return ~gone[self.component]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """What coupling may take. Beyond it, the rest of the network is frozen: the answer is partial."""

    seconds: float = 600.0
    pairs: int = 50_000_000
    """Ties between two identities, of `TIE_BYTES` each."""

    def passed(self, ties: Ties, start: float) -> str:
        """Why coupling has to stop here; empty while it may go on."""
        if ties.pairs > self.pairs:
            return f"coupling stopped after {self.pairs} ties"
        return f"coupling stopped after {self.seconds:g} s" if time.monotonic() - start > self.seconds else ""


NO_MORE_THAN = Bound()


def couple(
    traced: Traced,
    *,
    rules: Rules | None = None,
    bound: Bound = NO_MORE_THAN,
    head_width: bool = False,
) -> Coupling:
    """Find the channel groups of a traced network.

    Args:
        traced: From `trace`.
        rules: Rules of the user's own for ops that have none, or to overrule ours.
        bound: Time and memory; what lies behind it in the graph is frozen.
        head_width: Cut attention heads in width, all of a layer by as much, where query and key are plain
            projections; elsewhere and without it, heads are cut whole.
    """
    ties, start, stopped = Ties(traced, head_width), time.monotonic(), ""
    for node in traced.nodes:
        stopped = stopped or bound.passed(ties, start)
        if stopped:
            ties.freeze_all(node, stopped)
            _count_multiplications(node, ties, rules or {})
        elif node.op == "call_function":
            couple_node(node, ties, rules or {})
        elif node.op == "output":
            ties.freeze_all(node, "the network's output")
        elif node.op in ("call_module", "call_method"):
            ties.freeze_all(node, f"no rule for {node.target}")
    component = _components(ties)
    while not stopped and _make_rectangular(ties, component):
        component, stopped = _components(ties), bound.passed(ties, start)
    if stopped:
        for ids in ties.grids.values():
            ties.freeze(ids, stopped, "")
    reasons = _reasons(ties, component)
    groups, members, alone = _groups(ties, component, reasons)
    reasons.update(dict.fromkeys(alone, (LAST_UNIT, "")))
    frozen = _frozen_axes(ties, component, reasons)
    return Coupling(ties, component, groups, members, frozen, ties.unknown, stopped)


def _count_multiplications(node: fx.Node, ties: Ties, rules: Rules) -> None:
    """Of a layer that coupling did not come to: costs and the list of frozen axes name it all the same."""
    if node.op == "call_function" and any(read.op == "get_attr" for read in node.all_input_nodes):
        alone = Ties(ties.traced)
        couple_node(node, alone, rules)
        for name, positions in alone.positions.items():
            ties.positions[name] = ties.positions.get(name, 0.0) + positions


def why_nothing(coupling: Coupling) -> str:
    """Why channels are frozen, the most frequent reason first, and the ops without a rule."""
    counts: Counter[str] = Counter()
    for axis in coupling.frozen:
        counts[axis.reason] += axis.indices
    reasons = [f"{reason} ({count} channels)" for reason, count in counts.most_common()]
    ops = [f"{op} has no coupling rule ({count} times)" for op, count in coupling.unknown_ops.items()]
    stopped = [coupling.stopped] if coupling.stopped and coupling.stopped not in counts else []
    return "; ".join([*stopped, *reasons, *ops]) or "it has no layers with channels"


def _components(ties: Ties) -> Ints:
    sources = np.concatenate([a for a, _ in ties.edges]) if ties.edges else np.zeros(0, np.int64)
    sinks = np.concatenate([b for _, b in ties.edges]) if ties.edges else np.zeros(0, np.int64)
    shape = (ties.count, ties.count)
    graph = coo_array((np.ones(len(sources), np.int8), (sources, sinks)), shape=shape)
    _, labels = connected_components(graph, directed=False)
    return np.asarray(labels, dtype=np.int64)


def _make_rectangular(ties: Ties, component: Ints) -> bool:
    """Cut joint factors along one axis only: the one that leaves most to choose from; False: all are."""
    before = len(ties.edges)
    for ids in ties.grids.values():
        roots = component[ids]
        varying = [d for d in range(roots.ndim) if (roots != np.take(roots, [0], axis=d)).any()]
        if len(varying) > 1:
            best = max(varying, key=lambda d: roots.shape[d])
            ties.tie_along(ids, [d for d in range(roots.ndim) if d != best])
    return len(ties.edges) > before


def _reasons(ties: Ties, component: Ints) -> Reasons:
    """Frozen component -> the first reason given."""
    reasons: Reasons = {}
    for frozen in ties.frozen:
        for root in np.unique(component[frozen.ids]).tolist():
            reasons.setdefault(root, (frozen.reason, frozen.detail))
    return reasons


@dataclass(frozen=True, slots=True, eq=False)
class _Units:
    """The free components, in the order in which parameters name them, and the parameter entries of each.

    Unit u owns entries `starts[u]` up to `starts[u + 1]`: `indices` of the axes whose number is in `axes`.
    """

    roots: Ints
    starts: Ints
    axes: Ints
    indices: Ints


def _free_units(ties: Ties, component: Ints, reasons: Reasons) -> _Units:
    frozen = np.zeros(int(component.max(initial=-1)) + 1, dtype=bool)
    frozen[list(reasons)] = True
    named = list(ties.axes.values())
    none = np.zeros(0, np.int64)
    roots = component[np.concatenate([none, *named])]
    axes = np.repeat(np.arange(len(named)), [len(ids) for ids in named])
    indices = np.concatenate([none, *(np.arange(len(ids)) for ids in named)])
    free = ~frozen[roots]
    roots, axes, indices = roots[free], axes[free], indices[free]
    distinct, first, inverse = np.unique(roots, return_index=True, return_inverse=True)
    unit = np.argsort(np.argsort(first))[inverse]
    order = np.argsort(unit, kind="stable")
    starts = np.searchsorted(unit[order], np.arange(len(distinct) + 1))
    return _Units(distinct[np.argsort(first)], starts, axes[order], indices[order])


def _groups(
    ties: Ties, component: Ints, reasons: Reasons
) -> tuple[tuple[ChannelGroup, ...], dict[str, Ints], list[int]]:
    """Units with entries in the same axes form a group; one that is alone in its kind has to stay."""
    units = _free_units(ties, component, reasons)
    pieces, widths = _pieces(ties, component), _widths(ties, component)
    kinds: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for unit, root in enumerate(units.roots.tolist()):
        entries = units.axes[units.starts[unit] : units.starts[unit + 1]]
        kinds[(entries.tobytes(), *pieces.get(root, ()))].append(unit)
    groups: dict[str, ChannelGroup] = {}
    members, alone = {}, []
    for kind in kinds.values():
        narrows = int(units.roots[kind[0]]) in widths
        slots = _slots(ties, units, np.array(kind), narrows=narrows)
        if len(kind) == 1:
            alone.append(int(units.roots[kind[0]]))
        elif any(slot.consumer for slot in slots):  # else nothing sums over it (an index table): no channels
            name = _name(ties, slots, groups)
            groups[name] = ChannelGroup(name=name, units=len(kind), slots=slots)
            members[name] = units.roots[kind]
    return tuple(groups.values()), members, alone


def _pieces(ties: Ties, component: Ints) -> dict[int, tuple[int, ...]]:
    """Component -> the pieces of splits that it lies in: a group never spans two, so that none goes empty."""
    pieces: dict[int, tuple[int, ...]] = defaultdict(tuple)
    for number, ids in enumerate(ties.segments):
        for root in np.unique(component[ids]).tolist():
            pieces[root] += (number,)
    return pieces


def _widths(ties: Ties, component: Ints) -> frozenset[int]:
    """Components that are indices of the width of attention heads."""
    return frozenset(root for ids in ties.widths for root in np.unique(component[ids]).tolist())


def _slots(ties: Ties, units: _Units, kind: Ints, *, narrows: bool) -> tuple[Slot, ...]:
    """Where units lie; those that narrow heads are masked where queries and keys are made."""
    first, stop = units.starts[kind[0]], units.starts[kind[0] + 1]
    axes = units.axes[first:stop]
    indices = units.indices[units.starts[kind][:, None] + np.arange(stop - first)]
    names = list(ties.axes)
    return tuple(
        Slot(
            parameter=names[axis][0],
            axis=names[axis][1],
            indices=indices[:, axes == axis],
            consumer=names[axis] in ties.consumers or (narrows and names[axis] in ties.made),
        )
        for axis in np.unique(axes).tolist()
    )


def _name(ties: Ties, slots: Sequence[Slot], taken: Collection[str]) -> str:
    """The first weight that produces the units, numbered where several groups share it."""
    producers = [slot for slot in slots if not slot.consumer] or list(slots)
    weights = [slot for slot in producers if slot.parameter in ties.positions] or producers
    name, number = weights[0].parameter, 1
    while (unique := name if number == 1 else f"{name}#{number}") in taken:
        number += 1
    return unique


def _frozen_axes(ties: Ties, component: Ints, reasons: Reasons) -> tuple[FrozenAxis, ...]:
    """Axes of layer weights of which some indices are frozen, with the reason given most often."""
    result = []
    for (name, axis), ids in ties.axes.items():
        if name not in ties.positions or axis > 1:
            continue
        found = Counter(reasons[root] for root in component[ids].tolist() if root in reasons)
        if found:
            (reason, detail), _ = found.most_common(1)[0]
            result.append(
                FrozenAxis(parameter=name, axis=axis, indices=found.total(), reason=reason, detail=detail)
            )
    return tuple(result)
