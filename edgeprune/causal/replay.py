"""Runs a traced network under interventions, recomputing only what lies downstream of them.

Removing units means zeroing their entries wherever a layer sums over them. Before the first such layer nothing
changes: the values alive there are kept (*suffix replay*), per shard of the calibration images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from edgeprune.records import ChannelGroup

Value = Any  # a tensor, a size or a tuple of them: what a graph node gives


@dataclass(frozen=True, slots=True, eq=False)
class _Op:
    """One node, ready to run: reads from and writes to a list of values."""

    node: fx.Node
    function: Callable[..., Value]
    dies: tuple[fx.Node, ...]
    """Values that nobody reads after this op."""


class Replay:
    """The current network: the dense one without the units removed so far.

    Args:
        graph: Traced dense network; its parameters are copied, not changed.
        groups: Channel groups that interventions may name.
        inputs: Calibration images, shape (N, C, H, W).
        shards: Image numbers of each shard, in order; a shard is what one evaluation runs.
        batch: The only batch size that the graph accepts, or None.
    """

    def __init__(
        self,
        graph: fx.GraphModule,
        groups: Sequence[ChannelGroup],
        inputs: Tensor,
        shards: Sequence[slice],
        *,
        batch: int | None = None,
    ) -> None:
        self._ops = _compile(graph)
        self._dense = {name: t.detach() for name, t in (*graph.named_parameters(), *graph.named_buffers())}
        self._dense |= _constants(graph)
        self._weights = dict(self._dense)
        self._groups = {group.name: group for group in groups}
        self._removed: dict[str, set[int]] = {group.name: set() for group in groups}
        self._batch = batch
        self._output = next(node for node in graph.graph.nodes if node.op == "output").all_input_nodes[0]
        self._input = next(node for node in graph.graph.nodes if node.op == "placeholder")
        self._cut = 0
        self._alive = [[{self._input: piece} for piece in self._pieces(inputs[shard])] for shard in shards]

    @property
    def removed(self) -> dict[str, tuple[int, ...]]:
        """Units removed so far, per group."""
        return {name: tuple(sorted(units)) for name, units in self._removed.items() if units}

    def position(self, group: ChannelGroup) -> int:
        """Where in the graph the first layer that sums over a group stands."""
        names = {slot.parameter for slot in group.slots if slot.consumer}
        return min(i for i, op in enumerate(self._ops) if any(str(n.target) in names for n in _weights_of(op.node)))

    def enter(self, group: ChannelGroup) -> None:
        """Move the cut forward to a group, computing what the current network gives up to there."""
        position = self.position(group)
        assert position >= self._cut, "groups are visited in the order of their positions"
        for shard in self._alive:
            for values in shard:
                self._run(values, self._weights, self._cut, position)
        self._cut = position

    def outputs(self, shard: int, group: ChannelGroup | None = None, units: Sequence[int] = ()) -> Tensor:
        """Logits of one shard's images, shape (n, K), with these units taken out as well."""
        weights = self._weights if group is None else {**self._weights, **self._zeroed(group, units)}
        results = []
        for values in self._alive[shard]:
            scratch = dict(values)
            self._run(scratch, weights, self._cut, len(self._ops))
            results.append(scratch[self._output])
        return torch.cat(results)

    def full(self, inputs: Tensor) -> Tensor:
        """Logits of any images under the current network, shape (N, K)."""
        results = []
        for piece in self._pieces(inputs):
            values = {self._input: piece}
            self._run(values, self._weights, 0, len(self._ops))
            results.append(values[self._output])
        return torch.cat(results)[: len(inputs)]

    def remove_(self, group: ChannelGroup, units: Sequence[int]) -> None:
        """Take units out of the current network."""
        self._weights.update(self._zeroed(group, units))
        self._removed[group.name].update(units)

    def restore_(self, group: ChannelGroup, units: Sequence[int]) -> None:
        """Give units of the group entered last back to the current network."""
        self._removed[group.name].difference_update(units)
        touched = {slot.parameter for slot in group.slots if slot.consumer}
        self._weights.update({name: self._dense[name] for name in touched})
        for other in self._groups.values():
            gone = self._removed[other.name]
            if gone and any(slot.parameter in touched for slot in other.slots):
                self._weights.update(self._zeroed(other, sorted(gone), only=touched))

    def _zeroed(self, group: ChannelGroup, units: Sequence[int], *, only: set[str] | None = None) -> dict[str, Tensor]:
        changed: dict[str, Tensor] = {}
        for slot in group.slots:
            if slot.consumer and (only is None or slot.parameter in only):
                base = changed.get(slot.parameter, self._weights[slot.parameter])
                index = torch.from_numpy(np.ascontiguousarray(slot.indices[list(units)].ravel()))
                changed[slot.parameter] = base.index_fill(slot.axis, index, 0.0)
        return changed

    def _pieces(self, inputs: Tensor) -> list[Tensor]:
        """Images as the graph accepts them: all at once, or padded pieces of its fixed batch size."""
        if self._batch is None:
            return [inputs]
        assert self._batch == 1, "a fixed batch is traced at size 1"
        return list(inputs.split(1))

    @torch.inference_mode()
    def _run(self, values: dict[fx.Node, Value], weights: dict[str, Tensor], start: int, stop: int) -> None:
        for op in self._ops[start:stop]:

            def read(node: fx.Node) -> Value:
                return weights[str(node.target)] if node.op == "get_attr" else values[node]

            args = fx.node.map_arg(op.node.args, read)
            kwargs = fx.node.map_arg(op.node.kwargs, read)
            values[op.node] = op.function(*args, **kwargs)
            for node in op.dies:
                values.pop(node, None)


def _compile(graph: fx.GraphModule) -> list[_Op]:
    """Nodes in order of running, each with the values that die at it."""
    nodes = [node for node in graph.graph.nodes if node.op == "call_function"]
    last: dict[fx.Node, fx.Node] = {}
    for node in nodes:
        last.update(dict.fromkeys((n for n in node.all_input_nodes if n.op != "get_attr"), node))
    output = next(node for node in graph.graph.nodes if node.op == "output")
    kept = set(output.all_input_nodes)
    dying: dict[fx.Node, list[fx.Node]] = {}
    for value, reader in last.items():
        if value not in kept:
            dying.setdefault(reader, []).append(value)
    for node in nodes:
        if not node.users:
            dying.setdefault(node, []).append(node)
    return [_Op(node, _function(node), tuple(dying.get(node, ()))) for node in nodes]


def _function(node: fx.Node) -> Callable[..., Value]:
    """A view may not suit the strides that a faster memory format leaves; a reshape always does."""
    if node.target is torch.ops.aten.view.default:
        return torch.ops.aten.reshape.default  # type: ignore[no-any-return]  # torch's ops are not typed
    assert callable(node.target)
    return node.target


def _weights_of(node: fx.Node) -> list[fx.Node]:
    return [n for n in node.all_input_nodes if n.op == "get_attr"]


def _constants(graph: fx.GraphModule) -> dict[str, Tensor]:
    """Tensors that the graph reads and that are neither parameters nor buffers."""
    found = {}
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            owner: object = graph
            for part in str(node.target).split("."):
                owner = getattr(owner, part)
            if isinstance(owner, Tensor):
                found[str(node.target)] = owner.detach()
    return found
