"""The oracle of all coupling tests: removing units gives what zeroing them where they are read gives."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from tiny_nets import SIDE, TINY_NETS
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from edgeprune.channels import Costs, Coupling, couple, cut, masked, trace
from edgeprune.records import InputSpec

TOLERANCE = 1e-4
SPEC = InputSpec(shape=(3, SIDE, SIDE))

Removed = dict[str, tuple[int, ...]]


def randomise_(module: nn.Module, *, seed: int = 0) -> None:
    """No statistic, scale or bias that hides a mistake: nothing 0, nothing 1, nothing equal."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if not tensor.is_floating_point():
            continue
        if name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
            tensor.data.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        elif tensor.ndim == 1 or tensor.std() < 1e-3:
            tensor.data.copy_(torch.randn(tensor.shape, generator=generator) * 0.2)


@cache
def tiny(name: str) -> tuple[nn.Module, Coupling]:
    """A tiny network with random statistics, and its coupling."""
    network = TINY_NETS[name].make().eval()
    randomise_(network)
    return network, couple(trace(network, SPEC))


def random_units(coupling: Coupling, ratio: float, *, seed: int = 0) -> Removed:
    """About this share of every group's units, at least one, never all."""
    chooser = np.random.default_rng(seed)
    removed = {}
    for group in coupling.groups:
        count = min(max(1, round(group.units * ratio)), group.units - 1)
        removed[group.name] = tuple(sorted(chooser.choice(group.units, count, replace=False).tolist()))
    return removed


def random_images(coupling: Coupling, *, images: int = 2, seed: int = 0) -> Tensor:
    traced = coupling.ties.traced
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(traced.batch or images, *traced.spec.shape, generator=generator)


def relative_error(expected: object, other: object) -> float:
    """max |a - b| / max |a|, the largest over an output's tensors; shapes and structure must be equal."""
    ours, structure = tree_flatten(expected)
    theirs, other_structure = tree_flatten(other)
    assert structure == other_structure
    pairs = zip(ours, theirs, strict=True)
    return max(tensor_error(a, b) for a, b in pairs if isinstance(a, Tensor))


def tensor_error(expected: Tensor, other: Tensor) -> float:
    assert expected.shape == other.shape
    assert torch.isfinite(expected).all()
    return float((expected - other).abs().max() / expected.abs().max())


@torch.no_grad()
def masked_against_cut(coupling: Coupling, removed: Removed) -> float:
    """Relative difference between the network with these units masked and with them removed.

    Fails where masking changes nothing, and where `Costs` counts otherwise than the cut network's parameters.
    """
    x = random_images(coupling)
    expected, smaller = masked(coupling, removed)(x), cut(coupling, removed)
    if any(removed.values()):
        dense = coupling.ties.traced.graph_module(x)
        assert relative_error(dense, expected) > 1e-6, "the units do not matter: this proves nothing"
    assert Costs(coupling).count(removed)[0] == sum(p.numel() for p in smaller.parameters())
    return relative_error(expected, smaller(x))
