"""A device that is not there: its tensors lie in this machine's memory, and refuse to meet others.

Tensors of the device `meta` get values here. An op that is given some of them and an ordinary tensor raises,
as it would on a GPU, and so does reading one without `.cpu()` first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta")
CPU = torch.device("cpu")
aten = torch.ops.aten
CROSSING = (aten.copy_.default, aten._to_copy.default)
"""Ops that move values from one device to another."""
INDEXING = (aten.index.Tensor, aten.index_put_.default)
"""Ops whose indices may lie on the CPU; a tensor on the CPU takes no others."""


class Far(Tensor):
    """A tensor over there."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> Far:
        with torch.inference_mode(mode=False):  # a view of it would have to be an inference tensor as well
            found: Far = Tensor._make_wrapper_subclass(
                cls, here.shape, strides=here.stride(), dtype=here.dtype, device=DEVICE
            )
        found.here = here
        return found

    def __getitem__(self, index: Any) -> Tensor:
        """torch never fills a list of indices into a `meta` tensor: it gets a tensor instead."""
        parts = index if isinstance(index, tuple) else (index,)
        found = tuple(
            torch.tensor(part, dtype=torch.int64) if isinstance(part, list) else part for part in parts
        )
        return super().__getitem__(found)

    def tolist(self) -> Any:
        return self.here.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


class PretendGpu(TorchDispatchMode):
    """While it is on, `meta` has memory; counts the ops that ran there."""

    def __init__(self) -> None:
        super().__init__()
        self.ops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = run(func, args, kwargs or {})
        self.ops += any(isinstance(leaf, Far) for leaf in tree_leaves(result))
        return result


def run(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Run an op where its tensors are, or where it is told to."""
    free = func in INDEXING and isinstance(args[0], Far)
    together = (args[:1], args[2:]) if free else (args, kwargs)
    leaves = [leaf for leaf in tree_leaves(together) if isinstance(leaf, Tensor)]
    far = any(isinstance(leaf, Far) for leaf in leaves)
    if far and func not in CROSSING:
        strangers = [leaf for leaf in leaves if not isinstance(leaf, Far) and leaf.ndim]
        if strangers:
            raise RuntimeError(
                f"{func}: expected all tensors on the same device, {strangers[0].shape} is not"
            )
    devices = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.device)]
    over_there = devices[0] == DEVICE if devices else far
    if func is aten.copy_.default:
        args[0].here.copy_(here(args[1])) if isinstance(args[0], Far) else args[0].copy_(here(args[1]))
        return args[0]
    result = func(*tree_map(here, args), **tree_map(here, dict(kwargs)))
    if func._schema.is_mutable:
        return args[0]
    return (
        tree_map(lambda leaf: Far(leaf) if isinstance(leaf, Tensor) else leaf, result)
        if over_there
        else result
    )


def here(value: Any) -> Any:
    if isinstance(value, Far):
        return value.here
    return CPU if value == DEVICE and isinstance(value, torch.device) else value
