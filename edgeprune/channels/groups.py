"""Ties -> channel groups: which indices of which parameters are removed together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import fx

from edgeprune.channels.reading import Op, Rule
from edgeprune.channels.rules import couple_node
from edgeprune.channels.ties import Factor, Frozen, Ties, shape_of
from edgeprune.channels.trace import Traced, parameter
from edgeprune.records import ChannelGroup, FrozenAxis, Ints, Slot

LAST_UNIT = "the only unit of its kind"
GRID_ROUNDS = 8


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

    def kept(self, removed: Mapping[str, tuple[int, ...]]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Per identity, whether it stays when these units are removed."""
        gone = np.zeros(int(self.component.max(initial=-1)) + 1, dtype=bool)
        for group, units in removed.items():
            gone[self.members[group][list(units)]] = True
        return ~gone[self.component]


def couple(traced: Traced, *, rules: Mapping[Op, Rule] | None = None) -> Coupling:
    """Find the channel groups of a traced network.

    Args:
        traced: From `trace`.
        rules: Rules of the user's own for ops that have none, or to overrule ours.
    """
    ties = Ties(traced)
    for node in traced.nodes:
        if node.op == "call_function":
            couple_node(node, ties, rules or {})
        elif node.op == "output":
            ties.freeze_all(node, "the network's output")
        elif node.op in ("call_module", "call_method"):
            ties.freeze_all(node, f"no rule for {node.target}")
    component = _solve(ties)
    reasons = _reasons(ties, component)
    groups, members, leftover = _groups(ties, component, reasons)
    reasons.update(dict.fromkeys(leftover, (LAST_UNIT, "")))
    return Coupling(ties, component, groups, members, _frozen_axes(ties, component, reasons), ties.unknown)


def _solve(ties: Ties) -> Ints:
    """Connected components; joint factors are tied until what is kept of them is a rectangle."""
    component = _components(ties)
    for _ in range(GRID_ROUNDS):
        before = len(ties.edges)
        for ids in ties.grids.values():
            _make_rectangular(ties, component[ids], ids)
        if len(ties.edges) == before:
            break
        component = _components(ties)
    return component


def _components(ties: Ties) -> Ints:
    sources = np.concatenate([a for a, _ in ties.edges]) if ties.edges else np.zeros(0, np.int64)
    sinks = np.concatenate([b for _, b in ties.edges]) if ties.edges else np.zeros(0, np.int64)
    shape = (ties.count, ties.count)
    graph = coo_array((np.ones(len(sources), np.int8), (sources, sinks)), shape=shape)
    _, labels = connected_components(graph, directed=False)
    return np.asarray(labels, dtype=np.int64)


def _make_rectangular(ties: Ties, roots: Ints, ids: Ints) -> None:
    """Cut a joint factor along one axis only: the one that leaves most to choose from."""
    varying = [d for d in range(roots.ndim) if (roots != np.take(roots, [0], axis=d)).any()]
    if len(varying) < 2:
        return
    best = max(varying, key=lambda d: roots.shape[d])
    ties.tie_along(ids, [d for d in range(roots.ndim) if d != best])


def _reasons(ties: Ties, component: Ints) -> dict[int, tuple[str, str]]:
    """Frozen component -> the first reason given."""
    reasons: dict[int, tuple[str, str]] = {}
    for frozen in ties.frozen:
        for root in np.unique(component[frozen.ids]):
            reasons.setdefault(int(root), (frozen.reason, frozen.detail))
    return reasons


def _groups(
    ties: Ties, component: Ints, reasons: Mapping[int, tuple[str, str]]
) -> tuple[tuple[ChannelGroup, ...], dict[str, Ints], list[int]]:
    """Free components with the same slots form a group; those that fill an axis alone are given back."""
    table = _slot_table(ties, component, reasons)
    by_signature: dict[tuple[object, ...], list[int]] = defaultdict(list)
    pieces = _segment_tags(ties, component)
    for root, slots in table.items():
        signature = tuple((key, len(indices)) for key, indices in slots.items())
        by_signature[(*signature, *pieces.get(root, ()))].append(root)
    groups, members, leftover = [], {}, []
    names: dict[str, int] = {}
    for roots in by_signature.values():
        if len(roots) < 2:
            leftover += roots
            continue
        if not any(key in ties.consumers for key in table[roots[0]]):
            continue  # nothing sums over it (an index table, a position code): not channels
        group = _group(ties, table, roots, names)
        groups.append(group)
        members[group.name] = np.array(roots, dtype=np.int64)
    return tuple(groups), members, leftover


def _slot_table(
    ties: Ties, component: Ints, reasons: Mapping[int, tuple[str, str]]
) -> dict[int, dict[tuple[str, int], list[int]]]:
    """Free component -> parameter axis -> its indices there, in the order of the graph."""
    frozen = np.zeros(int(component.max(initial=-1)) + 1, dtype=bool)
    frozen[list(reasons)] = True
    table: dict[int, dict[tuple[str, int], list[int]]] = defaultdict(dict)
    for key, ids in ties.axes.items():
        roots = component[ids]
        for index in np.flatnonzero(~frozen[roots]):
            table[int(roots[index])].setdefault(key, []).append(int(index))
    return table


def _segment_tags(ties: Ties, component: Ints) -> dict[int, tuple[int, ...]]:
    """Component -> the pieces of splits that it lies in: a group never spans two pieces."""
    tags: dict[int, tuple[int, ...]] = defaultdict(tuple)
    for number, ids in enumerate(ties.segments):
        for root in np.unique(component[ids]):
            tags[int(root)] += (number,)
    return tags


def _group(
    ties: Ties, table: Mapping[int, dict[tuple[str, int], list[int]]], roots: list[int], names: dict[str, int]
) -> ChannelGroup:
    slots = tuple(
        Slot(
            parameter=name,
            axis=axis,
            indices=np.array([table[root][name, axis] for root in roots], dtype=np.int64),
            consumer=(name, axis) in ties.consumers,
        )
        for name, axis in table[roots[0]]
    )
    producers = [s for s in slots if not s.consumer] or list(slots)
    weights = [s for s in producers if s.parameter in ties.positions] or producers
    name = weights[0].parameter
    names[name] = names.get(name, 0) + 1
    unique = name if names[name] == 1 else f"{name}#{names[name]}"
    return ChannelGroup(name=unique, units=len(roots), slots=slots)


def _frozen_axes(ties: Ties, component: Ints, reasons: Mapping[int, tuple[str, str]]) -> tuple[FrozenAxis, ...]:
    """Axes of layer weights of which some indices are frozen, with the reason given most often."""
    result = []
    for (name, axis), ids in ties.axes.items():
        if name not in ties.positions or axis > 1:
            continue
        found = [reasons[int(root)] for root in component[ids] if int(root) in reasons]
        if found:
            reason, detail = max(set(found), key=found.count)
            result.append(FrozenAxis(parameter=name, axis=axis, indices=len(found), reason=reason, detail=detail))
    return tuple(result)
