"""A traced network compiled for running many times: BatchNorm folded, any weights, from any op to any other.

On a CPU a few images run on one thread, and `torch.get_num_threads()` such pieces side by side: quicker than
all threads in each op, and the outputs do not depend on the number of threads. On an accelerator pieces are
larger and run one after the other, in full single precision (no TF32); outputs come back to the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, fx

from edgeprune.causal.fold import CONVOLUTIONS, Folded, attribute, folded
from edgeprune.causal.kernels import KERNELS

Value = Any  # a tensor, a size or a tuple of them: what a graph node gives
Values = dict[fx.Node, Value]
Weights = Mapping[str, Tensor]
Piece = TypeVar("Piece")
Result = TypeVar("Result")

aten = torch.ops.aten
IMAGE_DIMS = 4
PIECE_IMAGES, PIECE_BYTES = 8, 3.75e6
"""Images that run together, at most: more at once do not fit the caches and run slower."""
LARGE_IMAGES, LARGE_BYTES = 64, 40e6
"""The same on an accelerator, where they have to fit into its memory with all that is made of them."""
IN_PLACE: dict[object, Callable[..., Value]] = {
    aten.hardswish.default: aten.hardswish_.default,
    aten.hardtanh.default: aten.hardtanh_.default,
    aten.relu.default: aten.relu_.default,
    aten.silu.default: aten.silu_.default,
}
"""Activations that may overwrite what one of `FRESH` has just written: new memory is slow to come by."""
FRESH: tuple[object, ...] = (*CONVOLUTIONS, aten.add.Tensor)


@dataclass(frozen=True, slots=True, eq=False)
class Op:
    """One node, ready to run."""

    node: fx.Node
    function: Callable[..., Value]
    in_place: Callable[..., Value]
    """The same, overwriting its input: allowed where that was computed by this run, not kept at the cut."""
    source: int
    """Place of the op that computes its input."""
    dies: tuple[fx.Node, ...]
    """Values that nobody reads after this op."""


class Program:
    """A network ready to run from any op to any other, with any weights.

    Args:
        graph: Traced network; its parameters are copied, not changed.
        batch: The only batch size that the graph accepts (1), or None.
        device: Where it runs. Images may lie anywhere.

    Attributes:
        folded: The graph without BatchNorms that could be folded.
        ops: Nodes in order of running.
        dense: Parameter or buffer -> its value, as the ops read it, on the device.
    """

    def __init__(
        self, graph: fx.GraphModule, *, batch: int | None = None, device: torch.device | str = "cpu"
    ) -> None:
        assert batch in (None, 1), "a fixed batch is traced at size 1"
        self._pool = ThreadPoolExecutor(
            torch.get_num_threads(), initializer=torch.set_num_threads, initargs=(1,)
        )
        self.batch, self.device = batch, torch.device(device)
        self.folded: Folded = folded(graph)
        _place_(self.folded.graph, self.device)
        self.ops = _compile(self.folded.graph)
        nodes = self.folded.graph.graph.nodes
        reads = [node for node in nodes if node.op == "get_attr"]
        self.dense = {str(n.target): self._placed(attribute(self.folded.graph, n).detach()) for n in reads}
        self._readers: dict[str, int] = {}
        """Weight -> place of the first op that reads it."""
        for place, op in enumerate(self.ops):
            for read in op.node.all_input_nodes:
                if read.op == "get_attr":
                    self._readers.setdefault(str(read.target), place)
        self.output = _only(self.folded.graph, "output").all_input_nodes[0]
        self.input = _only(self.folded.graph, "placeholder")

    def start(self, images: Tensor) -> list[Values]:
        """Images in pieces that the graph accepts and that run fast: an even number of them, of like size.

        The pieces, and so the results, do not depend on the number of threads.
        """
        if not len(images):
            return []
        size = self.piece_images(images[0].nbytes)
        count = -(-len(images) // size)
        if self._on_cpu:
            count = min(len(images), count + count % 2)
        return [{self.input: self._placed(piece)} for piece in torch.tensor_split(images, count)]

    def piece_images(self, image_bytes: int) -> int:
        """How many images of this size run together, at most."""
        most, room = (PIECE_IMAGES, PIECE_BYTES) if self._on_cpu else (LARGE_IMAGES, LARGE_BYTES)
        return self.batch or max(1, min(most, int(room / image_bytes)))

    @property
    def _on_cpu(self) -> bool:
        return self.device.type == "cpu"

    def _placed(self, tensor: Tensor) -> Tensor:
        """Where and how ops read it fastest."""
        return channels_last(tensor) if self._on_cpu else tensor.to(self.device)

    def logits(self, pieces: Iterable[Values], weights: Weights, *, start: int = 0) -> Tensor:
        """The network's output from op `start` on, shape (n, K)."""
        return torch.cat(self.each(partial(self.finish, weights=weights, start=start), pieces))

    def finish(self, piece: Values, *, weights: Weights, start: int = 0) -> Tensor:
        """The network's output for one piece from op `start` on, shape (n, K), on the CPU.

        The piece is untouched.
        """
        values = dict(piece)
        self.run_(values, weights=weights, start=start, stop=len(self.ops))
        output: Tensor = values[self.output]
        return output.cpu()

    def variants(self, piece: Values, *, weights: Weights, changes: Sequence[Weights]) -> list[Tensor]:
        """The network's output for one piece with each of some changes of its weights, on the CPU.

        What comes before a change runs once for all of them. The piece is untouched.
        """
        starts = [self._first_reader(change) for change in changes]
        values, place, outputs = dict(piece), 0, {}
        for number in sorted(range(len(changes)), key=starts.__getitem__):
            self.run_(values, weights=weights, start=place, stop=starts[number])
            place = starts[number]
            changed = {**weights, **changes[number]}
            outputs[number] = self.finish(values, weights=changed, start=place)
        return [outputs[number] for number in range(len(changes))]

    def _first_reader(self, names: Iterable[str]) -> int:
        """Place of the first op that reads any of these weights."""
        return min((self._readers[name] for name in names if name in self._readers), default=len(self.ops))

    def values_at(self, pieces: Iterable[Values], weights: Weights, place: int) -> list[Value]:
        """What one op gives for each piece; the pieces are untouched."""
        copies = [dict(piece) for piece in pieces]
        self.each(partial(self.run_op_, weights=weights, place=place), copies)
        return [values[self.ops[place].node] for values in copies]

    def each(self, function: Callable[[Piece], Result], pieces: Iterable[Piece]) -> list[Result]:
        """A function of every piece (or pair of pieces), side by side, each on one thread.

        On an accelerator one after the other: it is busy with one.
        """
        if not self._on_cpu:
            with _exact():
                return [function(piece) for piece in pieces]
        with _one_thread():
            return list(self._pool.map(function, pieces))

    @torch.inference_mode()
    def run_op_(self, values: Values, *, weights: Weights, place: int) -> None:
        """Compute one op for one piece and forget nothing."""
        op = self.ops[place]

        def read(node: fx.Node) -> Value:
            return weights[str(node.target)] if node.op == "get_attr" else values[node]

        values[op.node] = op.function(
            *fx.node.map_arg(op.node.args, read), **fx.node.map_arg(op.node.kwargs, read)
        )

    @torch.inference_mode()
    def run_(self, values: Values, *, weights: Weights, start: int, stop: int) -> None:
        """Compute the values of these ops for one piece, on the thread that asks."""
        self._run_(values, weights=weights, start=start, stop=stop)

    def _run_(
        self, values: Values, *, weights: Weights, start: int, stop: int, in_place: bool = True
    ) -> None:
        def read(node: fx.Node) -> Value:
            return weights[str(node.target)] if node.op == "get_attr" else values[node]

        for op in self.ops[start:stop]:
            args = fx.node.map_arg(op.node.args, read)
            kwargs = fx.node.map_arg(op.node.kwargs, read)
            function = op.in_place if in_place and op.source >= start else op.function
            values[op.node] = function(*args, **kwargs)
            for node in op.dies:
                values.pop(node)

    def slopes(
        self,
        piece: Values,
        target: Callable[[Tensor], Tensor],
        *,
        weights: Weights,
        names: Sequence[str],
        start: int = 0,
    ) -> dict[str, Tensor]:
        """∂target/∂weight for the weights of these names; the target is a number made from the outputs.

        Raises:
            RuntimeError: an op of the network has no derivative.
        """
        with torch.enable_grad():
            leaves = {name: weights[name].detach().clone().requires_grad_() for name in names}
            # values that were computed without gradients cannot be read by ops that keep them
            values = {node: v.clone() if isinstance(v, Tensor) else v for node, v in piece.items()}
            self._run_(values, weights={**weights, **leaves}, start=start, stop=len(self.ops), in_place=False)
            found = torch.autograd.grad(
                target(values[self.output]), list(leaves.values()), materialize_grads=True
            )
        return dict(zip(names, found, strict=True))


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _exact() -> AbstractContextManager[None]:
    """Convolutions on an accelerator give the same each time, to all digits: verdicts hang on them."""
    exact: AbstractContextManager[None] = torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )
    return exact


def _place_(graph: fx.GraphModule, device: torch.device) -> None:
    """Ops that name the device they were traced on (where positions are made, for one) name this one."""

    def placed(value: Value) -> Value:
        return device if isinstance(value, torch.device) else value

    for node in graph.graph.nodes:
        node.args = fx.node.map_aggregate(node.args, placed)
        node.kwargs = fx.node.map_aggregate(node.kwargs, placed)


def _compile(graph: fx.GraphModule) -> list[Op]:
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


def _op(node: fx.Node, dies: Sequence[fx.Node], place: Mapping[fx.Node, int]) -> Op:
    function = KERNELS.get(node.target, node.target)
    assert callable(function)
    in_place, source = function, -1
    for read in node.all_input_nodes:
        if node.target in IN_PLACE and read in dies and read.target in FRESH:
            in_place, source = IN_PLACE[node.target], place[read]
    return Op(node, function, in_place, source, tuple(dies))


def channels_last(tensor: Tensor) -> Tensor:
    """Images and filters in the memory format that convolutions on a CPU prefer."""
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == IMAGE_DIMS else tensor


def arguments_of(node: fx.Node) -> dict[str, Any]:  # Any: as the graph holds them
    """An op's arguments by the names of its schema; those left out are missing."""
    assert isinstance(node.target, torch._ops.OpOverload)
    names = [argument.name for argument in node.target._schema.arguments]
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}


def weights_of(node: fx.Node) -> list[str]:
    return [str(read.target) for read in node.all_input_nodes if read.op == "get_attr"]


def _only(graph: fx.GraphModule, kind: str) -> fx.Node:
    """The graph's single input or output."""
    (node,) = (node for node in graph.graph.nodes if node.op == kind)
    assert isinstance(node, fx.Node)
    return node
