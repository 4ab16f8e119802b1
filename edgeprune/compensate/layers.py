"""A layer's inputs as rows: one row per position that its weight is multiplied with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, fx
from torch.nn import functional

from edgeprune.memory import Allowance
from edgeprune.records import ChannelGroup

aten = torch.ops.aten
CONVOLUTIONS = (aten.conv1d.default, aten.conv2d.default, aten.conv3d.default)
TRANSPOSED = (aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input)
IMAGE_DIMS = 4
PIECES_AT_ONCE = 4
"""Each gives matrices as large as all that a layer reads."""
TINY = 1e-12
"""Below any variance that counts."""

Read = tuple[fx.Node, int]
"""A tensor, and in how many groups of channels a layer reads it."""
Values = dict[fx.Node, Any]  # Any: a tensor, a size or a tuple of them, as a graph node gives it
Weights = Mapping[str, Tensor]
Piece = TypeVar("Piece")
Result = TypeVar("Result")


class Op(Protocol):
    """One node of a program."""

    @property
    def node(self) -> fx.Node: ...
    @property
    def dies(self) -> tuple[fx.Node, ...]: ...


class Program(Protocol):
    """A compiled network: what compensation needs of it."""

    @property
    def ops(self) -> Sequence[Op]: ...
    @property
    def dense(self) -> Weights: ...
    def start(self, images: Tensor) -> list[Values]: ...
    def run_(self, values: Values, *, weights: Weights, start: int, stop: int) -> None: ...
    def run_op_(self, values: Values, *, weights: Weights, place: int) -> None: ...
    def each(self, function: Callable[[Piece], Result], pieces: Iterable[Piece]) -> list[Result]: ...


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """A dense network and the images that it is compensated with; labels are not needed.

    Attributes:
        program: The network, compiled.
        layers: From `find_layers`.
        groups: Its channel groups.
        images: Shape (N, C, H, W).
        allowance: Memory for values between two layers.
    """

    program: Program
    layers: Mapping[str, Layer]
    groups: Sequence[ChannelGroup]
    images: Tensor
    allowance: Allowance = field(default_factory=Allowance)


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A convolution or linear layer of a program that alone reads its weight."""

    place: int
    """Number of its op."""
    node: fx.Node
    source: fx.Node
    """What it reads."""
    weight: str
    bias: str | None
    axis: int
    """Axis of the weight that runs over the inputs."""
    groups: int = 1
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    transposed: bool = False

    @property
    def channel_dim(self) -> int:
        """Axis of the source that holds the channels."""
        return 1 if self.stride else -1

    @property
    def read(self) -> Read:
        """What it reads: layers that read the same share what survivors know of the channels that left."""
        return self.source, self.groups


def in_turn(program: Program, look: Callable[[Piece], Result], pieces: Sequence[Piece]) -> Iterator[Result]:
    """What each piece gives, in order, a few held at a time: sums do not depend on timing."""
    for first in range(0, len(pieces), PIECES_AT_ONCE):
        yield from program.each(look, pieces[first : first + PIECES_AT_ONCE])


def find_layers(program: Program) -> dict[str, Layer]:
    """Weight -> the layer that reads it; weights that several ops read have no layer."""
    layers = [_layer(place, op.node) for place, op in enumerate(program.ops)]
    found = [layer for layer in layers if layer is not None]
    reads = Counter(
        str(n.target) for op in program.ops for n in op.node.all_input_nodes if n.op == "get_attr"
    )
    return {layer.weight: layer for layer in found if reads[layer.weight] == 1}


def arguments_of(node: fx.Node) -> dict[str, Any]:  # Any: as the graph holds them
    """An op's arguments by the names of its schema; those left out are missing."""
    assert isinstance(node.target, torch._ops.OpOverload)
    names = [argument.name for argument in node.target._schema.arguments]
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}


def _layer(place: int, node: fx.Node) -> Layer | None:
    known = (*CONVOLUTIONS, *TRANSPOSED, aten.linear.default)
    if node.target not in known:
        return None
    a = arguments_of(node)
    weight, bias = a["weight"], a.get("bias")
    if weight.op != "get_attr" or (bias is not None and bias.op != "get_attr"):
        return None
    kind = dict(place=place, node=node, source=a["input"], weight=str(weight.target))
    kind["bias"] = None if bias is None else str(bias.target)
    if node.target is aten.linear.default:
        return Layer(**kind, axis=1)
    transposed = node.target in TRANSPOSED
    rank = len(weight.meta["val"].shape) - 2
    return Layer(
        **kind,
        axis=0 if transposed else 1,
        groups=a.get("groups", 1),
        stride=_per_axis(a.get("stride", 1), rank),
        padding=_per_axis(a.get("padding", 0), rank),
        dilation=_per_axis(a.get("dilation", 1), rank),
        transposed=transposed,
    )


def _per_axis(value: int | Sequence[int], rank: int) -> tuple[int, ...]:
    given = (value,) if isinstance(value, int) else tuple(value)
    return given * rank if len(given) == 1 else given


def channel_rows(layer: Layer, source: Tensor) -> Tensor:
    """The source as (positions, channels)."""
    if layer.channel_dim == 1:
        return source.movedim(1, -1).reshape(-1, source.shape[1])
    return source.reshape(-1, source.shape[-1])


def mixes(layer: Layer, weight: Tensor) -> bool:
    """Whether what a layer gives is made of several channels, which can stand for each other.

    Those of a depthwise convolution have none beside them; transposed ones lie in groups along another axis.
    """
    return layer.groups == 1 or (not layer.transposed and weight.shape[layer.axis] > 1)


def table_of(layer: Layer, weight: Tensor) -> Tensor:
    """A weight as (groups, outputs of a group, taps..., inputs of a group), a view."""
    return weight.reshape(layer.groups, -1, *weight.shape[1:]).movedim(layer.axis + 1, -1)


def weight_of(layer: Layer, table: Tensor) -> Tensor:
    """Back from `table_of`."""
    return table.movedim(-1, layer.axis + 1).flatten(0, 1)


def can_unfold(layer: Layer, weight: Tensor) -> bool:
    """Whether `patches` knows how: 2-D, or one tap without padding or stride; transposed: tiles only."""
    if layer.transposed:
        return _tiles(layer, weight)
    taps = weight.shape[2:].numel() if layer.stride else 1
    plain = set(layer.padding) <= {0} and set(layer.stride) <= {1}
    return not layer.stride or len(layer.stride) == IMAGE_DIMS - 2 or (taps == 1 and plain)


def _tiles(layer: Layer, weight: Tensor) -> bool:
    """Whether each position that a transposed convolution reads gives a tile of its own: none overlap."""
    size, taps = layer.source.meta["val"].shape[2:], tuple(weight.shape[2:])
    tiled = tuple(length * tap for length, tap in zip(size, taps, strict=True))
    alone = layer.groups == 1 and set(layer.padding) <= {0} and set(layer.dilation) <= {1}
    exact = layer.stride == taps and tuple(layer.node.meta["val"].shape[2:]) == tiled
    return alone and exact and len(taps) == IMAGE_DIMS - 2


def sampled(values: Tensor, thin: int, *, axis: int = -1) -> Tensor:
    """About every thin-th entry along an axis: the same ones of values of the same length.

    Each stretch of `thin` entries gives one, drawn once and for all: even steps would meet the same columns
    of every image, 56 of a 112 wide one its first and its middle one.
    """
    if thin <= 1:
        return values
    return values.index_select(axis, _places(values.shape[axis], thin).to(values.device))


@cache
def _places(count: int, thin: int) -> Tensor:
    stretches = torch.arange(0, count, thin)
    drawn = torch.randint(thin, stretches.shape, generator=torch.Generator().manual_seed(count))
    return (stretches + drawn).clamp_max_(count - 1)


def patches(layer: Layer, weight: Tensor, source: Tensor, thin: int = 1) -> Tensor:
    """What output positions read, one of `thin`: shape (groups, positions, inputs of a group * taps)."""
    if not layer.stride:
        return sampled(source.reshape(1, -1, source.shape[-1]), thin, axis=1)
    if layer.transposed:
        return _by_group(layer, sampled(source.flatten(2), thin))
    if weight.shape[2:].numel() == 1 and set(layer.padding) <= {0}:
        steps = [slice(None, None, step) for step in layer.stride]
        rows = source[(slice(None), slice(None), *steps)].flatten(2)
        return _by_group(layer, sampled(rows, thin))
    unfold = partial(
        functional.unfold,
        kernel_size=tuple(weight.shape[2:]),
        dilation=layer.dilation,
        padding=layer.padding,
        stride=layer.stride,
    )
    if thin == 1:
        return _by_group(layer, unfold(source))
    return _by_group(layer, torch.cat([sampled(unfold(image), thin) for image in torch.split(source, 1)]))


def output_rows(layer: Layer, output: Tensor, thin: int = 1) -> Tensor:
    """An output of the layer as (groups, positions, outputs of a group), in the order of `patches`."""
    if not layer.stride:
        return sampled(output.reshape(1, -1, output.shape[-1]), thin, axis=1)
    return _by_group(layer, sampled(output.flatten(2), thin))


def target_rows(layer: Layer, output: Tensor, thin: int = 1) -> Tensor:
    """As `output_rows`; of a transposed convolution the tile that each position gives, its taps last."""
    if not layer.transposed:
        return output_rows(layer, output, thin)
    images, channels, *size = output.shape
    split = [part for length, step in zip(size, layer.stride, strict=True) for part in (length // step, step)]
    tiles = output.reshape(images, channels, *split)  # (N, C, H, taps, W, taps)
    return _by_group(layer, sampled(tiles.permute(0, 1, 3, 5, 2, 4).flatten(4).flatten(1, 3), thin))


def _by_group(layer: Layer, rows: Tensor) -> Tensor:
    """(N, C, positions) -> (groups, N * positions, C / groups)."""
    images, width, positions = rows.shape
    grouped = rows.reshape(images, layer.groups, width // layer.groups, positions)
    return grouped.permute(1, 0, 3, 2).reshape(layer.groups, images * positions, -1)


def weight_rows(layer: Layer, weight: Tensor) -> Tensor:
    """A weight as (groups, inputs of a group * taps, outputs of a group), in the order of `patches`."""
    if layer.transposed:
        return weight.flatten(1)[None]
    return weight.reshape(layer.groups, weight.shape[0] // layer.groups, -1).transpose(1, 2)


def tap_shares(layer: Layer, weight: Tensor) -> Tensor:
    """Share of output positions at which each tap of a convolution reads no padding; shape (taps...)."""
    size = layer.source.meta["val"].shape[2:]
    shares = [
        _inside(int(length), taps, stride, padding, dilation)
        for length, taps, stride, padding, dilation in zip(
            size, weight.shape[2:], layer.stride, layer.padding, layer.dilation, strict=True
        )
    ]
    result = torch.ones((), dtype=torch.float64)
    for share in shares:
        result = result[..., None] * share
    return result


def _inside(length: int, taps: int, stride: int, padding: int, dilation: int) -> Tensor:
    outputs = torch.arange((length + 2 * padding - dilation * (taps - 1) - 1) // stride + 1)
    places = outputs[:, None] * stride - padding + torch.arange(taps)[None, :] * dilation
    return ((places >= 0) & (places < length)).double().mean(dim=0)
