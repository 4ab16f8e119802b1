"""Runs a traced network under interventions, recomputing only what lies downstream of them.

Removing units means zeroing their entries wherever a layer sums over them. Before the first such layer
nothing changes: the values alive there are kept (*suffix replay*), per shard of the calibration images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from edgeprune.causal.fold import CONVOLUTIONS, attribute, folded
from edgeprune.records import ChannelGroup

Value = Any  # a tensor, a size or a tuple of them: what a graph node gives
Values = dict[fx.Node, Value]
Weights = Mapping[str, Tensor]

aten = torch.ops.aten
IMAGE_DIMS = 4
PIECE_IMAGES, PIECE_BYTES = 8, 2.5e6
"""Images that run together, at most: more at once do not fit the caches and run slower."""
IN_PLACE: dict[object, Callable[..., Value]] = {
    aten.hardswish.default: aten.hardswish_.default,
    aten.hardtanh.default: aten.hardtanh_.default,
    aten.relu.default: aten.relu_.default,
    aten.silu.default: aten.silu_.default,
}
"""Activations that may overwrite what one of `FRESH` has just written: new memory is slow to come by."""
FRESH: tuple[object, ...] = (*CONVOLUTIONS, aten.add.Tensor)


@dataclass(frozen=True, slots=True, eq=False)
class _Op:
    """One node, ready to run."""

    node: fx.Node
    function: Callable[..., Value]
    in_place: Callable[..., Value]
    """The same, overwriting its input: allowed where that was computed by this run, not kept at the cut."""
    source: int
    """Place of the op that computes its input."""
    dies: tuple[fx.Node, ...]
    """Values that nobody reads after this op."""


class Replay:
    """The current network: the dense one without the units removed so far.

    Args:
        graph: Traced dense network; its parameters are copied, not changed.
        groups: Channel groups that interventions may name.
        inputs: Calibration images, shape (N, C, H, W).
        shards: Image numbers of each shard, in order; a shard is what one evaluation runs.
        batch: The only batch size that the graph accepts (1), or None.

    A few images run on one thread, and `torch.get_num_threads()` such pieces side by side: quicker than all
    threads in each op, and the outputs do not depend on the number of threads.
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
        assert batch in (None, 1), "a fixed batch is traced at size 1"
        self._pool = ThreadPoolExecutor(
            torch.get_num_threads(), initializer=torch.set_num_threads, initargs=(1,)
        )
        graph = folded(graph)
        self._ops = _compile(graph)
        reads = [node for node in graph.graph.nodes if node.op == "get_attr"]
        self._dense = {str(node.target): _channels_last(attribute(graph, node).detach()) for node in reads}
        self._weights = dict(self._dense)
        self._groups = {group.name: group for group in groups}
        self._removed: dict[str, set[int]] = {group.name: set() for group in groups}
        self._batch = batch
        self._output = _only(graph, "output").all_input_nodes[0]
        self._input = _only(graph, "placeholder")
        self._cut = 0
        self._alive = [[{self._input: piece} for piece in self._pieces(inputs[shard])] for shard in shards]

    @property
    def removed(self) -> dict[str, tuple[int, ...]]:
        """Units removed so far, per group."""
        return {name: tuple(sorted(units)) for name, units in self._removed.items() if units}

    @property
    def kept_bytes(self) -> int:
        """Memory of the values alive at the cut, over all shards."""
        values = (value for shard in self._alive for piece in shard for value in piece.values())
        return sum(value.nbytes for value in values if isinstance(value, Tensor))

    def position(self, group: ChannelGroup) -> int:
        """Where in the graph the first layer that sums over a group stands."""
        names = {slot.parameter for slot in group.slots if slot.consumer}
        return next(i for i, op in enumerate(self._ops) if names.intersection(_weights_of(op.node)))

    def enter(self, group: ChannelGroup) -> None:
        """Move the cut forward to a group, computing what the current network gives up to there."""
        position = self.position(group)
        assert position >= self._cut, "groups are visited in the order of their positions"
        pieces = [values for shard in self._alive for values in shard]
        list(
            self._pool.map(partial(self._run_, weights=self._weights, start=self._cut, stop=position), pieces)
        )
        self._cut = position

    def outputs(self, shard: int, group: ChannelGroup | None = None, units: Sequence[int] = ()) -> Tensor:
        """Logits of one shard's images, shape (n, K), with these units taken out as well."""
        weights = self._weights if group is None else {**self._weights, **self._zeroed(group, units)}
        return self._logits(map(dict, self._alive[shard]), weights, self._cut)

    def full(self, inputs: Tensor) -> Tensor:
        """Logits of any images under the current network, shape (N, K)."""
        return self._logits(({self._input: piece} for piece in self._pieces(inputs)), self._weights, 0)

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
            gone = sorted(self._removed[other.name])
            zeroed = self._zeroed(other, gone) if gone else {}
            self._weights.update({name: weight for name, weight in zeroed.items() if name in touched})

    def _zeroed(self, group: ChannelGroup, units: Sequence[int]) -> dict[str, Tensor]:
        """The current weights of all layers that sum over a group, with the units' entries at zero."""
        changed: dict[str, Tensor] = {}
        for slot in group.slots:
            if slot.consumer:
                base = changed.get(slot.parameter, self._weights[slot.parameter])
                index = torch.from_numpy(slot.indices[list(units)].ravel())
                changed[slot.parameter] = base.index_fill(slot.axis, index, 0.0)
        return changed

    def _pieces(self, inputs: Tensor) -> list[Tensor]:
        """Images in batches that the graph accepts and that run fast."""
        size = self._batch or max(1, min(PIECE_IMAGES, int(PIECE_BYTES / inputs[0].nbytes)))
        return [_channels_last(piece) for piece in torch.split(inputs, size)]

    def _logits(self, pieces: Iterable[Values], weights: Weights, start: int) -> Tensor:
        done = self._run_all_(pieces, weights, start, len(self._ops))
        return torch.cat([values[self._output] for values in done])

    def _run_all_(self, pieces: Iterable[Values], weights: Weights, start: int, stop: int) -> list[Values]:
        """Run pieces side by side, each on one thread."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return list(self._pool.map(partial(self._run_, weights=weights, start=start, stop=stop), pieces))
        finally:
            torch.set_num_threads(threads)

    @torch.inference_mode()
    def _run_(self, values: Values, weights: Weights, start: int, stop: int) -> Values:
        """Compute the values of these ops; those that nobody reads any more leave."""

        def read(node: fx.Node) -> Value:
            return weights[str(node.target)] if node.op == "get_attr" else values[node]

        for op in self._ops[start:stop]:
            args = fx.node.map_arg(op.node.args, read)
            kwargs = fx.node.map_arg(op.node.kwargs, read)
            function = op.in_place if op.source >= start else op.function
            values[op.node] = function(*args, **kwargs)
            for node in op.dies:
                values.pop(node)
        return values


def _compile(graph: fx.GraphModule) -> list[_Op]:
    """Nodes in order of running, each with the values that die at it."""
    nodes = [node for node in graph.graph.nodes if node.op == "call_function"]
    last = {node: node for node in (_only(graph, "placeholder"), *nodes)}
    for node in nodes:
        last.update(dict.fromkeys((read for read in node.all_input_nodes if read.op != "get_attr"), node))
    for node in _only(graph, "output").all_input_nodes:
        del last[node]
    dying: dict[fx.Node, list[fx.Node]] = {}
    for value, reader in last.items():
        dying.setdefault(reader, []).append(value)
    place = {node: number for number, node in enumerate(nodes)}
    return [_op(node, dying.get(node, []), place) for node in nodes]


def _op(node: fx.Node, dies: Sequence[fx.Node], place: Mapping[fx.Node, int]) -> _Op:
    function = aten.reshape.default if node.target is aten.view.default else node.target
    assert callable(function)  # above: a view may not suit the strides that a faster memory format leaves
    in_place, source = function, -1
    for read in node.all_input_nodes:
        if node.target in IN_PLACE and read in dies and read.target in FRESH:
            in_place, source = IN_PLACE[node.target], place[read]
    return _Op(node, function, in_place, source, tuple(dies))


def _channels_last(tensor: Tensor) -> Tensor:
    """Images and filters in the memory format that convolutions on a CPU prefer."""
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == IMAGE_DIMS else tensor


def _weights_of(node: fx.Node) -> list[str]:
    return [str(read.target) for read in node.all_input_nodes if read.op == "get_attr"]


def _only(graph: fx.GraphModule, kind: str) -> fx.Node:
    """The graph's single input or output."""
    (node,) = (node for node in graph.graph.nodes if node.op == kind)
    assert isinstance(node, fx.Node)
    return node
