"""Which layer of a network gives the first NaN or infinity."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from edgeprune import channels


def first_broken_layer(traced: channels.Traced, images: Tensor, number: int) -> str:
    """Return the name of the layer whose outputs are the first that are not finite, with its operation.

    Args:
        traced: The network.
        images: Images (N, C, H, W).
        number: One of them for which the outputs are not finite.

    Returns:
        Like `layer1.0.conv1 (conv2d)`; empty where no operation is to blame.
    """
    size = traced.batch or 1
    start = max(0, min(number, len(images) - size))
    chosen = images[start : start + size]
    if len(chosen) < size:  # the only size that the network takes
        chosen = chosen.repeat(size, 1, 1, 1)[:size]
    search = _Search(traced.graph_module)
    with torch.inference_mode():
        search.run(chosen)
    return search.found


class _Search(fx.Interpreter):
    """Runs the graph node by node, and remembers the first that breaks."""

    found = ""

    def run_node(self, n: fx.Node) -> Any:  # Any: what a node gives
        given: Any = super().run_node(n)
        if not self.found and n.op == "call_function" and not _finite(given):
            self.found = f"{_layer(n)} ({getattr(n.target, '__name__', str(n.target)).partition('.')[0]})"
        return given


def _finite(value: Any) -> bool:  # Any: what a node gives
    leaves = pytree.tree_leaves(value)
    return all(bool(leaf.isfinite().all()) for leaf in leaves if isinstance(leaf, Tensor))


def _layer(node: fx.Node) -> str:
    """The path of the module that a node was traced in, `the network` for its own forward."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = str(stack[-1][0]) if stack else ""
    return path.removeprefix("L['self'].") if path not in ("", "L['self']") else "the network's forward"
