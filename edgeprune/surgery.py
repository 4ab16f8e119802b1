"""Module + kept indices -> a smaller module of the user's own class, verified against the cut graph."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from edgeprune.errors import ParityError
from edgeprune.records import InputSpec

log = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""Largest relative difference between own class and cut graph that still counts as equal."""

Kept = Mapping[str, Mapping[int, Tensor]]


@dataclass(frozen=True, slots=True, eq=False)
class Operated:
    """The smaller network."""

    module: nn.Module
    own_class: bool
    """Whether `module` is of the user's own class; else it is the traced graph."""
    reason: str
    """Why the own class could not be kept; empty when it was."""


def operate(module: nn.Module, kept: Kept, graph: fx.GraphModule, spec: InputSpec, *, batch: int | None) -> Operated:
    """Slice a copy of the user's module; fall back to the cut graph where its forward hard-codes a shape.

    Args:
        module: The dense network; untouched.
        kept: Parameter or buffer -> axis -> indices that stay.
        graph: The cut graph, which the result must agree with.
        spec: Input of the network.
        batch: The only batch size the graph accepts, or None.

    Raises:
        ParityError: the cut graph itself gives NaN or Inf.
    """
    example = torch.randn(batch or 2, *spec.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = graph(example)
    if not torch.isfinite(expected).all():
        raise ParityError("surgery: the cut network gives NaN or Inf; check the weights of the dense network.")
    try:
        own = _sliced_copy(module, kept, graph)
        with torch.no_grad():
            error = relative_error(expected, own(example))
    except Exception as err:  # user code runs here: anything may come out, and the graph is the answer
        reason = f"{type(module).__name__}.forward does not accept the new shapes: {str(err).splitlines()[0][:200]}"
    else:
        if error <= TOLERANCE:
            return Operated(own, own_class=True, reason="")
        reason = f"{type(module).__name__}.forward gives other outputs (relative error {error:.1e})"
    log.info("the traced graph is used instead of the own class: %s", reason)
    return Operated(graph, own_class=False, reason=reason)


def relative_error(expected: Tensor, other: Tensor) -> float:
    """max |a - b| / max |a|; infinite when the shapes differ."""
    if expected.shape != other.shape:
        return float("inf")
    scale = expected.abs().max().clamp_min(torch.finfo(expected.dtype).tiny)
    return float((expected - other).abs().max() / scale)


def _sliced_copy(module: nn.Module, kept: Kept, graph: fx.GraphModule) -> nn.Module:
    own = copy.deepcopy(module).eval()
    groups = _conv_groups(graph)
    for name, axes in kept.items():
        for owner, last in _places(own, name):
            _slice_(owner, last, axes)
    for name, child in own.named_modules():
        _fix_attributes_(child, groups.get(f"{name}.weight" if name else "weight"))
    return own


def _places(module: nn.Module, name: str) -> list[tuple[nn.Module, str]]:
    """Every (module, attribute) that holds the tensor called `name`: shared weights have several."""
    owner_name, _, last = name.rpartition(".")
    owner = module.get_submodule(owner_name)
    wanted = getattr(owner, last)
    return [
        (child, key)
        for child in module.modules()
        for key, tensor in (*child._parameters.items(), *child._buffers.items())
        if tensor is wanted
    ]


def _slice_(owner: nn.Module, name: str, axes: Mapping[int, Tensor]) -> None:
    tensor: Tensor = getattr(owner, name)
    value = tensor.detach()
    for axis, indices in axes.items():
        value = value.index_select(axis, indices)
    if isinstance(tensor, nn.Parameter):
        setattr(owner, name, nn.Parameter(value.clone(), requires_grad=tensor.requires_grad))
    else:
        owner._buffers[name] = value.clone()


def _conv_groups(graph: fx.GraphModule) -> dict[str, int]:
    """Weight -> groups of the convolution that uses it in the cut graph."""
    found = {}
    for node in graph.graph.nodes:
        names = [arg.name for arg in getattr(getattr(node.target, "_schema", None), "arguments", ())]
        if "groups" in names and isinstance(node.args[1], fx.Node):
            place = names.index("groups")
            found[str(node.args[1].target)] = node.args[place] if place < len(node.args) else 1
    return found


def _fix_attributes_(child: nn.Module, groups: int | None) -> None:
    """Make the attributes of torch's own layers say what their tensors are."""
    weight = getattr(child, "weight", None)
    if not isinstance(weight, Tensor):
        return
    match child:
        case nn.modules.conv._ConvTransposeNd():
            child.groups = groups or child.groups
            child.in_channels, child.out_channels = weight.shape[0], weight.shape[1] * child.groups
        case nn.modules.conv._ConvNd():
            child.groups = groups or child.groups
            child.out_channels, child.in_channels = weight.shape[0], weight.shape[1] * child.groups
        case nn.Linear():
            child.out_features, child.in_features = weight.shape
        case nn.modules.batchnorm._NormBase():
            child.num_features = weight.shape[0]
        case nn.LayerNorm():
            child.normalized_shape = tuple(weight.shape)
        case nn.GroupNorm():
            child.num_channels = weight.shape[0]
        case nn.PReLU():
            child.num_parameters = weight.shape[0]
        case nn.Embedding():
            child.embedding_dim = weight.shape[1]
        case _:
            pass
