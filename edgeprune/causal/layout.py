"""Where the images lie in the values of a network, so that they can be repeated along their axis.

Every node of a traced graph carries its shape, with a symbol where the number of images decides. Most values
have an axis of just that length. Attention and windows fold it into a longer one: a reshape from a value
whose layout is known tells how, and ops that keep such an axis keep its order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, fx

aten = torch.ops.aten
RESHAPES = (aten.view.default, aten.reshape.default, aten._unsafe_view.default)
Size = Any  # an int, or a symbolic one


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the images lie in one value.

    Attributes:
        axis: Theirs; None: the value is the same for any images, or a number.
        outer: So many runs of all images lie on that axis one behind the other,
        inner: and so many places belong to each image of a run.
        counts: The value is a number that grows with that of the images.
    """

    axis: int | None = None
    outer: int = 1
    inner: int = 1
    counts: bool = False

    def repeated(self, value: Any, times: int) -> Any:  # Any: what a graph node gives
        """The value for all images so many times: first each image once, then each again."""
        if self.counts:
            return value * times
        if self.axis is None:
            return value
        if (self.outer, self.inner) == (1, 1):
            return torch.cat([value] * times, dim=self.axis)
        runs = value.unflatten(self.axis, (self.outer, -1, self.inner))
        return torch.cat([runs] * times, dim=self.axis + 1).flatten(self.axis, self.axis + 2)

    def spread(self, rows: Tensor, value: Tensor, channel_axis: int) -> Tensor:
        """One row of channels for each repetition, so that it can be multiplied with a repeated value.

        Args:
            rows: Shape (times, channels).
            value: Repeated.
            channel_axis: The axis of the value that the channels lie on, not negative.
        """
        assert self.axis is not None
        images = value.shape[self.axis] // (self.outer * self.inner * len(rows))
        run = rows.repeat_interleave(images, 0)[None, :, None]  # (1, times * images, 1, channels)
        table = run.expand(self.outer, -1, self.inner, -1).flatten(0, 2)
        shape = [1] * value.ndim
        shape[self.axis], shape[channel_axis] = table.shape
        return (table if self.axis < channel_axis else table.T).reshape(shape)


def find_layouts(graph: fx.GraphModule) -> dict[fx.Node, Layout]:
    """Nodes of a traced graph whose layout is known; none where the number of images is fixed."""
    (first,) = graph.graph.find_nodes(op="placeholder")
    images = first.meta["val"].shape[0]
    if isinstance(images, int):
        return {}
    found: dict[fx.Node, Layout] = {}
    for node in graph.graph.nodes:
        layout = _layout(node, images, found)
        if layout is not None:
            found[node] = layout
    return found


def _layout(node: fx.Node, images: Size, found: Mapping[fx.Node, Layout]) -> Layout | None:
    value = node.meta.get("val")
    if isinstance(value, int | torch.SymInt):
        share = _share(value, images)
        return None if share is None else Layout(counts=share > 0)
    if not isinstance(value, Tensor):
        return None
    shares = [_share(size, images) for size in value.shape]
    if None in shares:
        return None
    axes = [axis for axis, share in enumerate(shares) if share]
    if len(axes) != 1:
        return None if axes else Layout()
    (axis,) = axes
    if shares[axis] == 1:
        return Layout(axis)
    return _folded(node, axis, found)


def _folded(node: fx.Node, axis: int, found: Mapping[fx.Node, Layout]) -> Layout | None:
    """Of a value whose images share an axis with something else."""
    shape = node.meta["val"].shape
    sources = [
        read for read in node.all_input_nodes if (layout := found.get(read)) and layout.axis is not None
    ]
    if node.target in RESHAPES:
        if len(sources) != 1 or (found[sources[0]].outer, found[sources[0]].inner) != (1, 1):
            return None
        return _merged(sources[0].meta["val"].shape, found[sources[0]].axis or 0, shape, axis)
    same = [found[read] for read in sources if _same(read.meta["val"].shape, shape, axis)]
    kept = [layout for layout in same if layout.axis == axis]
    return kept[0] if kept and len(sources) == len(kept) and len(set(kept)) == 1 else None


def _merged(before: Sequence[Size], from_axis: int, after: Sequence[Size], axis: int) -> Layout | None:
    """Of a reshape that folds the images' axis: what lies behind them is as long before and after."""
    behind, rest = prod(before[from_axis + 1 :]), prod(after[axis + 1 :])
    ahead, start = prod(before[:from_axis]), prod(after[:axis])
    if behind % rest or ahead % start:
        return None
    return Layout(axis, outer=ahead // start, inner=behind // rest)


def _same(before: Sequence[Size], after: Sequence[Size], axis: int) -> bool:
    return len(before) == len(after) and _expression(before[axis]) == _expression(after[axis])


def _share(size: Size, images: torch.SymInt) -> int | None:
    """How many times the number of images a size is: 0 where it is fixed, None for anything else."""
    if isinstance(size, int):
        return 0
    share = _expression(size) / _expression(images)
    return int(share) if share.is_Integer else None


def _expression(size: Size) -> Any:  # of sympy, which has no types
    return size.node.expr if isinstance(size, torch.SymInt) else size
